"""Every command and example of the README and of docs/ is run: by page, in the order of the page, on small real files.

What is changed is the length and size of trainings, by `--force_yml` or the tool's own option, and the words in
capitals that stand for a user's own paths.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED_DATA, photograph
from training_helpers import make_folders

from nlcl_plugin.data.image_io import write_image

ROOT = Path(__file__).resolve().parents[1]

PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]

# `.ci/run` calls these two lines of the README in a fresh environment; all extras that are shown are part of [test].
INSTALLATION = re.compile(r'pip install -e (\.|"\.\[(demo|video|export|test)\]")( && pytest -n 2)?$')
WORDS = {"INPUT...": "photographs", "DIR": "derained", "OTHER_DIR": "derained_too", "SOURCE": "source",
         "rain100h=FOLDER": "rain100h=datasets/rain100h"}  # fmt: skip

SHORT = "datasets:train:num_worker_per_gpu=1 datasets:train:batch_size_per_gpu=1 train:total_iter={} val:val_freq={}"
STAGE_ONE = SHORT.format(2, 2) + " datasets:train:gt_size=64 logger:save_checkpoint_freq=1"
STAGES = SHORT.format(6, 6) + " train:restorer_opt:start_iter=3 logger:print_freq=2"
ROUNDS = STAGES + " train:restorer_opt:rounds=[2]"
MIXED = (
    STAGE_ONE.replace("gt_size=64", "gt_size=32")
    + " network_p:num_feat=8 train:nlcl_opt:layer_opt:sampling:patch_size=8"
    + " train:nlcl_opt:layer_opt:sampling:search_size=16 train:nlcl_opt:layer_opt:sampling:num_rain_patches=16"
)
SHORTER = {
    **dict.fromkeys(("nlcl.yml", "nlcl_lmdb.yml", "nlcl_4gpu.yml", "nlcl_2x8gpu_multinode.yml"), STAGE_ONE),
    **dict.fromkeys(("nlcl_small.yml", "nlcl_best.yml"), ROUNDS),
    **{f"{name}.yml": STAGES for name in ("nlcl_quickstart", "restorer_rcan", "restorer_edsr", "restorer_simple_gate")},
    "restorer_swinir.yml": STAGES + " network_s:embed_dim=12 network_s:depths=[2] network_s:num_heads=[2]",
    **dict.fromkeys(
        ("restorer_from_bank.yml", "restorer_rendered.yml", "restorer_context.yml", "nlcl_real.yml"), SHORT.format(2, 2)
    ),
    "mix_nlcl_swinir_derain.yml": MIXED + " network_g:embed_dim=12 network_g:depths=[2] network_g:num_heads=[2]",
    "mix_nlcl_esrgan.yml": MIXED + " network_g:num_feat=8 network_g:num_block=1 network_d:num_feat=4",
}
CONFIG = (
    " --cfg-options train_cfg.max_iters=4 train_cfg.val_interval=4 model.train_cfg.restorer_opt.start_iter=2"
    " train_dataloader.batch_size=1"
)


def commands(page):
    """The lines of a page's shell blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [" ".join(line.split(" #")[0].split()) for line in lines if line.strip()]


def examples(page):
    """The Python blocks of a page; two pages' have tests of their own (test_readme, test_addon_option_files)."""
    if page in ("docs/losses.md", "docs/basicsr.md"):
        return []
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def runnable(command):
    """The command as the test runs it, or None for an installation."""
    if INSTALLATION.match(command):
        return None
    command = command.removeprefix("pip install -e . && ")
    for word, path in WORDS.items():
        command = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", path, command)
    train = re.search(r"(?:basicsr train|nlcl_plugin train|tools/slurm_train.sh).*options/(\S+\.yml)", command)
    if train:
        return command + ("" if "--force_yml" in command else " --force_yml") + f" {SHORTER[train[1]]}"
    if "tools/mm_train.py" in command:
        return command + CONFIG
    if "tools/ablate.py" in command:
        return command + " --arms unpaired --seeds 0"
    if "tools/benchmark.py step" in command:
        return command + " --small --crop 64 --batch-crop 64 --rounds 1"
    if command.startswith("basicsr demo"):  # it serves a page until it is interrupted
        code = "import subprocess, sys; page = subprocess.Popen(sys.argv[1:], stdout=-1, text=True); "
        code += "assert page.stdout.readline().startswith('Open http'); page.terminate(); sys.exit(page.wait())"
        return f'python -c "{code}" {command}'
    if re.match(r"(basicsr (?!train)|python tools/|find )", command):
        return command
    raise AssertionError(f"{command}: say here how it is run")


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_slow_test_runs(page):
    for command in commands(page):
        runnable(command)
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = [block for block in re.findall(r"```(\w*)\n", text) if block not in ("", "bash", "python", "bibtex")]
    assert shell == []  # no shell block of another name, that would not be seen here


def executable(path, script):
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def run(folder, command):
    """Run a line as a user's shell would; Slurm's programs are replaced by ones that start a single process here."""
    slurm = "SLURM_JOB_ID=1 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0 SLURM_STEP_NODELIST=here"
    programs = folder / "programs"
    if not programs.is_dir():
        programs.mkdir()
        executable(programs / "sbatch", f'env {slurm} bash "$@"')
        executable(programs / "srun", 'while [ "$1" != python ]; do shift; done\nexec "$@"')
        executable(programs / "scontrol", "echo localhost")
    variables = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True,
        check=False, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two short trainings and the demo data, as the quickstart and the training of one's own photographs leave them."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "options").symlink_to(ROOT / "options")
    (folder / "datasets" / "rain").mkdir(parents=True)
    make_folders(folder / "datasets" / "rain")
    for number in range(8):  # a batch of nlcl_best.yml
        write_image(folder / "datasets" / "rain" / "rainy" / "more" / f"{number}.png", photograph(48, 56, seed=number))
    for name in ("nlcl_quickstart", "nlcl_small"):
        done = run(folder, runnable(f"basicsr train -opt options/{name}.yml"))
        assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def workspace(tmp_path, trained):
    """What a page may take for granted: a clone of the repository, own files, and what the pages before it made."""
    from layout_trees import gt_rain
    from test_static_video import write_clip
    from test_video import make

    shutil.copytree(ROOT / "options", tmp_path / "options")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    for name in ("datasets", "experiments"):
        shutil.copytree(trained / name, tmp_path / name)
    make_folders(tmp_path)
    shutil.copytree(tmp_path / "datasets" / "rain", tmp_path / "datasets" / "rain100h")
    for name in ("rainy", "clean"):
        (tmp_path / "datasets" / "rain100h" / name).rename(tmp_path / "datasets" / "rain100h" / f"train_{name}")
    write_image(tmp_path / "photographs" / "street.png", photograph(70, 90))
    write_image(tmp_path / "holiday" / "sea" / "waves.png", photograph(50, 60, seed=1))
    write_image(tmp_path / "a.jpg", photograph(50, 60, seed=2))
    make(tmp_path / "clip.mp4")
    for name in ("yard.avi", "street.avi"):  # videos of a still scene
        write_clip(tmp_path / name, [photograph(120, 160)] * 12)
    gt_rain(tmp_path / "source")
    study = tmp_path / "options" / "studies" / "models.yml"
    study.write_text(study.read_text().replace("total_iter: 1000", "total_iter: 4"))
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) or examples(page)])
def test_what_a_page_shows_runs_one_after_the_other(page, workspace):
    if page == "docs/datasets.md":  # it makes these
        shutil.rmtree(workspace / "datasets" / "rain")
    if page == "docs/basicsr.md":  # pairs, and images to enlarge from
        from test_addon_option_files import make_pairs

        shutil.rmtree(workspace / "datasets" / "rain")
        make_pairs(workspace)
    left_out = []
    for command in commands(page):
        line = runnable(command)
        released = SHARED_DATA / "official_weights" / "latest_net_Back.pth"  # not part of the project
        if "latest_net_Back.pth" in command and released.is_file():
            shutil.copy(released, workspace)
        elif "latest_net_Back.pth" in command:
            left_out.append(command)
            continue
        if line:
            done = run(workspace, line)
            assert done.returncode == 0, f"{line}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
            assert "Traceback" not in done.stderr, line
    for example in examples(page):
        (workspace / "example.py").write_text(example, encoding="utf-8")
        done = run(workspace, "python example.py")
        assert done.returncode == 0, f"{example}\n{done.stderr[-3000:]}"
    if left_out:
        pytest.skip(f"ran all but {left_out}, which needs released weights that are not part of the project")
