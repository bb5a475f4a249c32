"""The command as users start it: real processes on real files."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import photograph
from training_helpers import make_folders, run, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.models.nlcl_model import NLCLModel


@pytest.fixture
def folder(tmp_path):
    make_folders(tmp_path, photograph)
    return tmp_path


def test_training_then_testing_leaves_everything_a_user_expects(folder):
    write_options(folder, tiny_options())
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 0, done.stderr
    experiment = folder / "experiments" / "tiny"
    for name in ("models/net_g_latest.pth", "models/net_s_4.pth", "training_states/6.state", "options.yml"):
        assert (experiment / name).is_file(), name
    content = torch.load(experiment / "models" / "net_s_latest.pth", weights_only=True)
    assert set(content) == {"params", "params_ema", "about"}
    summary = json.loads((experiment / "summary.json").read_text())
    for measure in ("psnr", "ssim"):
        assert set(summary[measure]) == {"rainy", "baseline", "derained", "clean"}
    assert summary["psnr"]["baseline"] >= summary["psnr"]["rainy"]
    assert isinstance(summary["mean_rain"], float)
    assert "derain(clean)" in done.stderr + done.stdout
    picture = cv2.imread(str(experiment / "summary.png"))
    assert picture.shape[1] > 4 * 400

    test = {key: tiny_options()[key] for key in ("name", "model_type", "num_gpu", "network_s")}
    test["datasets"] = {"test": {"name": "mine", "type": "UnpairedImageDataset", "dataroot_lq": "rainy"}}
    test["path"] = {"pretrain_network_s": "experiments/tiny/models", "param_key_s": "params_ema"}
    write_options(folder, test, "test.yml")
    done = run(folder, "test", "-opt", "test.yml")
    assert done.returncode == 0, done.stderr
    results = folder / "results" / "tiny"
    derained = sorted(path.name for path in (results / "visualization" / "mine").iterdir())
    assert derained == sorted(path.name for path in (folder / "rainy").iterdir())
    assert cv2.imread(str(results / "visualization" / "mine" / derained[0])).shape == (48, 56, 3)
    strip = cv2.imread(str(results / "visualization" / "mine_layers" / derained[0]))
    assert strip.shape == (48, 3 * 56, 3)
    assert np.array_equal(strip[:, :56], cv2.imread(str(folder / "rainy" / derained[0])))
    assert cv2.imread(str(results / "summary_mine.png")).shape[1] > 3 * 400
    photographs = json.loads((results / "summary.json").read_text())["photographs"]
    assert photographs == {"mine": {"niqe": None, "split_error": 0.0, "images": 3}}  # too small for NIQE
    assert len((results / "mine_metrics.csv").read_text().splitlines()) == 1 + 3


def test_resuming_goes_on_at_the_saved_iteration_in_the_same_folder(folder):
    write_options(folder, tiny_options())
    assert run(folder, "train", "-opt", "options.yml", "--force_yml", "train:total_iter=4").returncode == 0
    held = torch.load(folder / "experiments/tiny/models/net_g_4.pth", weights_only=True)["params"]
    done = run(folder, "train", "-opt", "options.yml", "--auto_resume")
    assert done.returncode == 0, done.stderr
    assert "Resuming from epoch" in done.stderr
    assert ", iteration 4." in done.stderr
    # Stage 2 began after iteration 3, so the generator stands still and only the restorer goes on.
    resumed = torch.load(folder / "experiments/tiny/models/net_g_latest.pth", weights_only=True)["params"]
    assert all(torch.equal(resumed[key], held[key]) for key in held)
    restorers = [
        torch.load(folder / f"experiments/tiny/models/net_s_{name}.pth", weights_only=True)["params"]["head.weight"]
        for name in ("4", "latest")
    ]
    assert not torch.equal(*restorers)
    assert not list((folder / "experiments").glob("*archived*"))


@pytest.mark.slow
def test_options_that_a_checkpoint_cannot_take_are_told_when_resuming(folder):
    write_options(folder, tiny_options())
    command = ["train", "-opt", "options.yml", "--auto_resume", "--force_yml"]
    assert run(folder, *command, "train:total_iter=4").returncode == 0
    done = run(folder, *command, "train:restorer_opt=~")
    assert done.returncode == 2
    assert "4.state: holds 3 optimizers where these options need 2" in done.stderr.splitlines()[-1]
    done = run(folder, *command, "train:optim_s:lr=5e-4", "train:total_iter=5")
    assert done.returncode == 0, done.stderr
    assert "train.optim_s.lr: 0.001 → 0.0005" in done.stderr
    assert "Optimizers go on with the rates and arguments of the checkpoint" in done.stderr


def test_a_torn_training_state_is_named_and_the_one_before_it_used(folder):
    write_options(folder, tiny_options())
    assert run(folder, "train", "-opt", "options.yml").returncode == 0
    state = folder / "experiments/tiny/training_states/6.state"
    state.write_bytes(state.read_bytes()[:100])
    done = run(folder, "train", "-opt", "options.yml", "--auto_resume")
    assert done.returncode == 0
    assert "6.state" in next(line for line in done.stderr.splitlines() if "changed" in line or "torn" in line)
    assert ", iteration 4." in done.stderr
    assert not list((folder / "experiments/tiny").rglob("*.tmp"))


def test_a_wrong_option_leaves_the_experiment_before_it_in_place(folder):
    write_options(folder, tiny_options())
    assert run(folder, "train", "-opt", "options.yml").returncode == 0
    before = sorted(path.name for path in (folder / "experiments").rglob("*"))
    options = tiny_options()
    del options["network_d"]
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 2
    assert "network_d is missing" in done.stderr
    assert sorted(path.name for path in (folder / "experiments").rglob("*")) == before


def test_unreadable_image_ends_the_run_also_with_cpu_prefetch(folder):
    (folder / "rainy" / "broken.png").write_bytes(b"nothing")
    options = tiny_options()
    options["datasets"]["train"]["prefetch_mode"] = "cpu"
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml", timeout=120)
    assert done.returncode == 2
    assert "rainy/broken.png" in done.stderr.splitlines()[-1]


# two at once ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("command", [["train"], ["train", "--auto_resume"], ["test"], ["check"]])
def test_a_second_run_of_one_name_is_refused_and_touches_nothing(folder, monkeypatch, capsys, command):
    monkeypatch.chdir(folder)
    place = "results" if command == ["test"] else "experiments"
    (folder / place / "tiny" / "models").mkdir(parents=True)
    options = tiny_options()
    if command == ["test"]:
        torch.save({"params": ResidualUNet(num_feat=8, num_block=1).state_dict()}, folder / "net_s.pth")
        options["datasets"] = {"test": {"type": "UnpairedImageDataset", "dataroot_lq": "rainy"}}
        options["path"] = {"pretrain_network_s": "net_s.pth"}
    write_options(folder, options)
    with locked(folder / place / "tiny"):
        before = sorted(folder.rglob("*"))
        code = cli.main([*command, "-opt", "options.yml"])
        assert sorted(folder.rglob("*")) == before
    said = capsys.readouterr().err.splitlines()
    if command == ["check"]:
        assert code == 0
    else:
        assert code == 2
        assert said[-1].startswith(f"error: {folder}/{place}/tiny: another run is at work in this folder; ")


def test_datasets_are_tested_in_the_order_of_their_numbers(folder, monkeypatch):
    monkeypatch.chdir(folder)
    torch.save({"params": ResidualUNet(num_feat=8, num_block=1).state_dict()}, folder / "net_s.pth")
    one = {"type": "UnpairedImageDataset", "dataroot_lq": "rainy"}
    options = tiny_options(datasets={name: dict(one) for name in ("test_10", "test_1", "test_2", "test")})
    options["path"] = {"pretrain_network_s": "net_s.pth"}
    write_options(folder, options)
    assert cli.main(["test", "-opt", "options.yml"]) == 0
    with open(folder / "results/tiny/summary.json") as file:
        assert list(json.load(file)["photographs"]) == ["test", "test_1", "test_2", "test_10"]


@pytest.mark.slow
def test_of_two_trainings_started_at_once_one_trains_and_its_results_stay_its_own(folder):
    options = tiny_options()
    options["train"].update(total_iter=40, restorer_opt=None)
    write_options(folder, options)
    command = [sys.executable, "-m", "nlcl_plugin", "train", "-opt", "options.yml", "--auto_resume"]
    runs = [subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in runs]
    assert sorted(process.returncode for process in runs) == [0, 2], said
    assert len((folder / "experiments/tiny/starts.jsonl").read_text().splitlines()) == 1
    assert os.listdir(folder / "experiments") == ["tiny"]


# signals --------------------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("where", ["launch.rehearse", "train.build_model", "train.summarise"])
def test_a_signal_before_the_first_iteration_or_after_the_last_is_one_line_and_code_5(
    folder, monkeypatch, capsys, where, number
):
    monkeypatch.chdir(folder)
    write_options(folder, tiny_options())
    monkeypatch.setattr(f"nlcl_plugin.engine.{where}", lambda *_, **__: signal.raise_signal(number))
    assert cli.main(["train", "-opt", "options.yml"]) == 5
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "interrupted; run the same command again, a training with --auto_resume"
    assert (folder / "experiments/tiny/training_states/6.state").exists() == (where == "train.summarise")


def test_a_signal_while_the_command_is_being_imported_is_one_line_and_code_5(tmp_path):
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt")
    path = os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(cli.__file__))])
    done = subprocess.run([sys.executable, "-m", "nlcl_plugin", "train", "-opt", "x.yml"], cwd=tmp_path, check=False,
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})  # fmt: skip
    assert (done.returncode, done.stderr) == (5, "interrupted; run the same command again\n")


@pytest.mark.usefixtures("interruptible")
def test_a_signal_in_the_last_step_spares_the_validation_and_going_on_makes_up_for_it(folder, monkeypatch):
    monkeypatch.chdir(folder)
    write_options(folder, tiny_options())
    step = NLCLModel.optimize_parameters

    def stopped(self, current_iter):
        step(self, current_iter)
        if current_iter == 6:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(NLCLModel, "optimize_parameters", stopped)
    assert cli.main(["train", "-opt", "options.yml"]) == 5
    experiment = folder / "experiments/tiny"
    assert not (experiment / "summary.json").exists()
    assert cli.main(["train", "-opt", "options.yml", "--auto_resume"]) == 0
    assert (experiment / "summary.json").exists()


def test_interrupting_saves_the_state_and_says_so(folder):
    options = tiny_options()
    options["train"].update(total_iter=100000, restorer_opt=None)
    options["logger"].update(print_freq=1, save_checkpoint_freq=100000)
    write_options(folder, options)
    command = [sys.executable, "-m", "nlcl_plugin", "train", "-opt", "options.yml"]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if "iter:       3" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stderr.read()
    assert process.returncode == 5
    assert "saved; go on with --auto_resume" in rest
    states = list((folder / "experiments/tiny/training_states").glob("*.state"))
    assert len(states) == 1
    iteration = int(states[0].stem)
    done = run(
        folder, "train", "-opt", "options.yml", "--auto_resume", "--force_yml", f"train:total_iter={iteration + 2}"
    )
    assert done.returncode == 0
    assert f"iteration {iteration}" in done.stderr


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once(second):
    script = (
        "import os, signal, time\n"
        "from nlcl_plugin.engine.train import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while not stop.requested:\n"
        "        time.sleep(0.01)\n"
        f"    os.kill(os.getpid(), {int(second)})\n"
        "    time.sleep(60)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, timeout=50).returncode == -second


def test_training_that_collapses_stops_with_its_own_code(folder):
    options = tiny_options()
    options["train"].update(min_mean_rain=0.9, collapse_iter=2, restorer_opt=None)
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1].startswith("stopped: the rain layer is empty")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "test"])
def test_unreadable_image_is_named_in_one_line(folder, command):
    (folder / "rainy" / "broken.png").write_bytes(b"\x89PNG not really")
    options = tiny_options()
    options["datasets"]["train"]["num_worker_per_gpu"] = 1  # errors of workers arrive with their traceback as text
    if command == "test":
        torch.save({"params": ResidualUNet(num_feat=8, num_block=1).state_dict()}, folder / "net_s.pth")
        options["datasets"] = {"test": {"type": "UnpairedImageDataset", "dataroot_lq": "rainy"}}
        options["path"] = {"pretrain_network_s": "net_s.pth"}
    write_options(folder, options)
    done = run(folder, command, "-opt", "options.yml")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "rainy/broken.png" in done.stderr.splitlines()[-1]


def test_skipping_unreadable_images_trains_on_the_rest_and_lists_them(folder):
    (folder / "rainy" / "broken.png").write_bytes(b"nothing")
    options = tiny_options()
    options["datasets"]["train"].update(on_error="skip", num_worker_per_gpu=1)
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 3, done.stderr
    assert "Trained without 1 files that could not be read:\n  rainy/broken.png" in done.stderr
    assert (folder / "experiments/tiny/summary.json").is_file()


def test_unreadable_validation_image_of_a_stock_dataset_is_named(folder):
    (folder / "val_clean" / "1.png").write_bytes(b"not an image")
    options = tiny_options()
    write_options(folder, options)
    done = run(folder, "train", "-opt", "options.yml")
    assert done.returncode == 2, done.stderr
    assert "val_clean/1.png: cannot be decoded as an image" in done.stderr.splitlines()[-1]


def test_one_line_and_code_two_for_a_wrong_option_file(folder):
    done = run(folder, "train", "-opt", "nothing.yml")
    assert (done.returncode, done.stderr) == (
        2,
        "error: cannot read the option file 'nothing.yml': No such file or directory\n",
    )


def test_usage_help_and_version(folder, capsys):
    assert run(folder, "train").returncode == 2
    for arguments, code, shown in (
        (["train", "--help"], 0, ("-opt", "--launcher", "--auto_resume", "--debug", "--force_yml")),
        (["--version"], 0, ("nlcl_plugin 0.",)),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == code
        said = capsys.readouterr().out
        assert all(word in said for word in shown)


@pytest.mark.parametrize("flag", ["--local_rank=0", "--local-rank=0"])
def test_both_spellings_of_the_local_rank_are_taken(flag):
    arguments = cli._parser().parse_args(["train", "-opt", "nothing.yml", flag])
    assert arguments.local_rank == 0


def test_debug_shortens_the_intervals(folder):
    write_options(folder, tiny_options())
    done = run(folder, "train", "-opt", "options.yml", "--debug", "--force_yml", "train:total_iter=4")
    assert done.returncode == 0, done.stderr
    assert (folder / "experiments" / "debug_tiny").is_dir()
    assert "iter:       1" in done.stderr


def test_torchrun_trains_on_two_processes(folder):
    options = tiny_options()
    options["datasets"]["train"]["batch_size_per_gpu"] = 1
    options["dist_params"] = {"backend": "gloo"}
    write_options(folder, options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=0", "--standalone"]
    arguments = ["-m", "nlcl_plugin", "train", "-opt", "options.yml", "--launcher", "pytorch"]
    done = subprocess.run([*torchrun, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=300,
                          env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "experiments/tiny/summary.json").is_file()


STOCK = """
name: EDSR_tiny
model_type: SRModel
scale: 2
num_gpu: 0
manual_seed: 0
datasets:
  train:
    name: generated
    type: PairedImageDataset
    dataroot_gt: gt
    dataroot_lq: lq
    filename_tmpl: '{}'
    io_backend: {type: disk}
    gt_size: 32
    use_hflip: true
    use_rot: true
    use_shuffle: true
    num_worker_per_gpu: 1
    batch_size_per_gpu: 2
    dataset_enlarge_ratio: 1
    prefetch_mode: ~
  val: {name: generated, type: PairedImageDataset, dataroot_gt: gt, dataroot_lq: lq, io_backend: {type: disk}}
network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 8, num_block: 2, upscale: 2, img_range: 255.,
            rgb_mean: [0.4488, 0.4371, 0.4040]}
path: {pretrain_network_g: ~, strict_load_g: true, resume_state: ~}
train:
  ema_decay: 0.999
  optim_g: {type: Adam, lr: !!float 1e-4, weight_decay: 0, betas: [0.9, 0.99]}
  scheduler: {type: MultiStepLR, milestones: [4], gamma: 0.5}
  total_iter: 6
  warmup_iter: -1
  pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}
val:
  val_freq: !!float 5e3
  save_img: false
  metrics: {psnr: {type: calculate_psnr, crop_border: 2, test_y_channel: false}}
logger: {print_freq: 2, save_checkpoint_freq: !!float 5e3, use_tb_logger: true, wandb: {project: ~, resume_id: ~}}
dist_params: {backend: nccl, port: 29500}
"""


def make_sr_pairs(folder):
    for name in ("gt", "lq"):
        (folder / name).mkdir()
    for i in range(4):
        image = photograph(48, 64, seed=i)
        cv2.imwrite(str(folder / "gt" / f"{i}.png"), image)
        cv2.imwrite(str(folder / "lq" / f"{i}.png"), cv2.resize(image, (32, 24), interpolation=cv2.INTER_AREA))


def test_stock_option_file_of_a_stock_model_trains_and_tests(tmp_path):
    make_sr_pairs(tmp_path)
    (tmp_path / "edsr.yml").write_text(STOCK)
    done = run(tmp_path, "train", "-opt", "edsr.yml")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    assert (tmp_path / "experiments/EDSR_tiny/models/net_g_latest.pth").is_file()
    assert list((tmp_path / "tb_logger/EDSR_tiny").glob("events*"))

    test = STOCK.replace("\n  val: {name", "\n  test_1: {name").split("  train:\n")
    test = test[0] + "  test_1" + test[1].split("  test_1")[1]
    test = test.replace("pretrain_network_g: ~", "pretrain_network_g: experiments/EDSR_tiny/models/net_g_latest.pth")
    (tmp_path / "test.yml").write_text(test.replace("save_img: false", "save_img: true\n  suffix: ~"))
    done = run(tmp_path, "test", "-opt", "test.yml")
    assert done.returncode == 0, done.stderr
    assert "psnr" in done.stderr
    assert len(list((tmp_path / "results/EDSR_tiny/visualization/generated").iterdir())) == 4


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_someones_own_script_uses_the_stock_pipeline(folder, start_method):
    options = tiny_options(path={}, scale=1)
    options["datasets"]["train"].update(
        num_worker_per_gpu=1, io_backend={"type": "disk"}, name="mine", dataset_enlarge_ratio=2
    )
    options["datasets"]["val"]["io_backend"] = {"type": "disk"}
    options["logger"]["use_tb_logger"] = False
    write_options(folder, options)
    script = folder / "own.py"
    script.write_text(
        "import multiprocessing\n"
        "import nlcl_plugin\n"
        "import nlcl_plugin as again\n"
        "from basicsr.train import train_pipeline\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method({start_method!r})\n"
        "    train_pipeline('.')\n"
    )
    done = subprocess.run([sys.executable, "own.py", "-opt", "options.yml"], cwd=folder, capture_output=True, text=True,
                          check=False, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (folder / "experiments/tiny/models/net_s_latest.pth").is_file()
