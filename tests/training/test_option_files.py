"""The option files that we ship, run as they are but for their length and the folders."""

import json
import math
import shutil
import subprocess

import pytest
from conftest import REPOSITORY
from training_helpers import check_alone, run

from nlcl_plugin.config.option_files import load_yaml

PROCESSES = {"nlcl_4gpu.yml": 4, "nlcl_2x8gpu_multinode.yml": 16}


@pytest.mark.parametrize("name", PROCESSES)
def test_options_for_many_gpus_see_the_images_of_the_paper_setting_at_the_rate_they_say(repository, name):
    one, many = (load_yaml(str(repository / "options" / file)) for file in ("nlcl.yml", name))
    images = [
        options["datasets"]["train"]["batch_size_per_gpu"] * processes
        for options, processes in ((one, 1), (many, PROCESSES[name]))
    ]
    assert many["train"]["total_iter"] * images[1] == one["train"]["total_iter"] * images[0]
    for optimizer in ("optim_g", "optim_d", "optim_p"):
        rates = [options["train"][optimizer].pop("lr") for options in (one, many)]
        assert rates[1] == pytest.approx(rates[0] * math.sqrt(images[1] / images[0]))
    # Every other option of the training, but for those that the file explains, is the paper's.
    told = ("total_iter", "warmup_iter", "amp", "channels_last")
    rest = [{key: value for key, value in options["train"].items() if key not in told} for options in (one, many)]
    assert rest[0] == rest[1]


def test_slurm_script_starts_the_training_with_a_port_of_its_job(repository, tmp_path):
    (tmp_path / "srun").write_text('#!/bin/sh\necho "$MASTER_PORT $OMP_NUM_THREADS $*"\nexit 5\n')
    (tmp_path / "srun").chmod(0o755)
    script = [shutil.which("bash"), str(repository / "tools" / "slurm_train.sh")]
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "12345678", "SLURM_CPUS_PER_TASK": "5"}

    def submit(*arguments, **environment):
        return subprocess.run([*script, *arguments], env=environment, capture_output=True, text=True, check=False)

    done = submit("x.yml", "--force_yml", "name=a b", **variables)
    assert done.returncode == 5, done.stderr
    assert done.stdout.strip() == (
        f"{20000 + 12345678 % 12000} 1 --kill-on-bad-exit=1 --cpus-per-task=5 --label "
        "python -m nlcl_plugin train -opt x.yml --force_yml name=a b --launcher slurm --auto_resume"
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_reaches_what_is_promised(repository, tmp_path, seed):
    options = repository / "options" / "nlcl_quickstart.yml"
    done = run(tmp_path, "train", "-opt", options, "--force_yml", f"manual_seed={seed}", timeout=900)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    summary = json.loads((tmp_path / "experiments/nlcl_quickstart/summary.json").read_text())
    psnr = summary["psnr"]
    assert set(summary["datasets"]) == {"additive", "screen"}
    assert psnr == summary["datasets"]["additive"]["psnr"]
    assert psnr["derained"] - psnr["rainy"] >= 7
    assert psnr["derained"] - psnr["baseline"] >= 0.5
    assert psnr["clean"] > 34


TRAIN = sorted(set((REPOSITORY / "options").glob("*.yml")) - {REPOSITORY / "options" / "nlcl_test.yml"})


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.stem)
def test_every_option_file_that_trains_has_options_that_the_command_takes(path, monkeypatch):
    # Without the weights that some begin with, which an earlier training writes.
    check_alone({**load_yaml(str(path)), "num_gpu": 0, "path": {}}, monkeypatch)
