"""The command as users start it; in this process, except where the process is the point."""

import json
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_helpers import make_folders, run, states, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.nlcl_model import NLCLModel
from nlcl_plugin.training.json_log import JsonLog, read_json_lines
from nlcl_plugin.training.train import StopRequest

TRAIN = ["train", "-opt", "options.yml"]
pytestmark = pytest.mark.usefixtures("interruptible")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A training to 6 that validates at 2 and 4, started as users do."""
    root = tmp_path_factory.mktemp("finished")
    make_folders(root)
    options = tiny_options(val={"val_freq": 2, "save_img": True})
    options["logger"].update(use_tb_logger=True, print_freq=1)
    write_options(root, options)
    done = run(root, *TRAIN, "--force_yml", "logger:keep_checkpoints=1")
    assert done.returncode == 0, done.stderr
    return root, done.stderr


@pytest.fixture
def trained(finished, tmp_path, monkeypatch):
    shutil.copytree(finished[0], tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def last_line(capsys):
    return capsys.readouterr().err.splitlines()[-1]


def write_test_options(folder):
    """Options of a test of a restorer without training."""
    torch.save({"params": ResidualUNet(num_feat=8, num_block=1).state_dict()}, folder / "net_s.pth")
    options = tiny_options(path={"pretrain_network_s": "net_s.pth"})
    options["datasets"] = {"test": {"type": "UnpairedImageDataset", "dataroot_lq": "rainy"}}
    write_options(folder, options)


# what comes out -------------------------------------------------------------------------------------------------------
def test_training_leaves_everything_a_user_expects(finished):
    experiment = finished[0] / "experiments/tiny"
    for name in ("models/net_g_latest.pth", "models/net_s_6.pth", "training_states/6.state", "options.yml"):
        assert (experiment / name).is_file(), name
    content = torch.load(experiment / "models/net_s_latest.pth", weights_only=True)
    assert set(content) == {"params", "params_ema", "about"}
    summary = json.loads((experiment / "summary.json").read_text())
    for measure in ("psnr", "ssim"):
        assert set(summary[measure]) == {"rainy", "baseline", "derained", "clean"}
    assert summary["psnr"]["baseline"] >= summary["psnr"]["rainy"]
    assert isinstance(summary["mean_rain"], float)
    assert "derain(clean)" in finished[1]
    assert cv2.imread(str(experiment / "summary.png")).shape[1] > 4 * 400


def test_metrics_losses_and_the_start_are_logged_and_tensorboard_gets_the_same(finished):
    root, _ = finished
    experiment = root / "experiments/tiny"
    metrics, losses = (read_json_lines(experiment / f"{name}.jsonl") for name in ("metrics", "losses"))
    assert [entry["iter"] for entry in metrics] == [2, 4, 6]
    assert metrics[-1]["dataset"] == "pairs"
    assert set(metrics[-1]["metrics"]) == {"psnr", "ssim"}
    summary = json.loads((experiment / "summary.json").read_text())
    assert metrics[-1]["metrics"]["psnr"] == pytest.approx(summary["psnr"]["derained"], abs=1e-6)
    (start,) = read_json_lines(experiment / "starts.jsonl")
    assert start["command"] == f"python -m nlcl_plugin {' '.join(TRAIN)} --force_yml logger:keep_checkpoints=1"
    assert (start["iter"], start["folder"], start["environment"]["processes"]) == (0, str(root), "1")
    assert {"nlcl_plugin", "BasicSR", "torch", "Python", "system", "device"} <= set(start["environment"])
    events = EventAccumulator(str(root / "tb_logger/tiny"), size_guidance={"scalars": 0, "images": 0}).Reload()
    for tag, expected in (("lr", losses[-1]["lr"]), ("metrics/pairs/psnr", metrics[-1]["metrics"]["psnr"])):
        assert {event.step: event.value for event in events.Scalars(tag)}[6] == pytest.approx(expected, rel=1e-6)
    assert sorted(events.Tags()["images"]) == ["pairs/0.png", "pairs/1.png"]
    picture = events.Images("pairs/0.png")[0]
    assert (picture.height, picture.width) == (48, 3 * 56)


def test_the_best_checkpoint_is_kept_and_marked(finished):
    experiment = finished[0] / "experiments/tiny"
    values = {entry["iter"]: entry["metrics"]["psnr"] for entry in read_json_lines(experiment / "metrics.jsonl")}
    best = json.loads((experiment / "models/best.json").read_text())
    begin = tiny_options()["train"]["restorer_opt"]["start_iter"]
    iteration = max((i for i in values if i > begin), key=values.get)  # a restorer is compared with restorers
    assert best == {"metric": "psnr", "value": values[iteration], "iter": iteration, "better": "higher"}
    summary = json.loads((experiment / "summary.json").read_text())
    assert summary["best"] == best
    compared = [line for line in summary["verdict"] if line.startswith(f"iteration {iteration} was the best")]
    assert len(compared) == (values[iteration] != values[max(values)])
    assert f"Best psnr: {best['value']:.4f} at iteration {iteration} (models/net_*_{iteration}.pth)" in finished[1]
    kept = {str(iteration), "6"}
    assert set(states(finished[0])) == kept
    for suffix, which in ((".pth", {*kept, "latest"}), (".safetensors", {str(iteration), "latest"})):
        assert {path.stem[6:] for path in (experiment / "models").glob(f"net_s_*{suffix}")} == which


def test_testing_derains_saves_and_measures(trained):
    test = {key: tiny_options()[key] for key in ("name", "model_type", "num_gpu", "network_s")}
    one = {"type": "UnpairedImageDataset", "dataroot_lq": "rainy"}
    test["datasets"] = {name: {**one, "name": name.replace("test", "mine")} for name in ("test_10", "test", "test_2")}
    test["path"] = {"pretrain_network_s": "experiments/tiny/models", "param_key_s": "params_ema"}
    write_options(trained, test, "test.yml")
    assert cli.main(["test", "-opt", "test.yml"]) == 0
    results = trained / "results/tiny"
    derained = sorted(path.name for path in (results / "visualization/mine").iterdir())
    assert derained == sorted(path.name for path in (trained / "rainy").iterdir())
    assert cv2.imread(str(results / "visualization/mine" / derained[0])).shape == (48, 56, 3)
    strip = cv2.imread(str(results / "visualization/mine_layers" / derained[0]))
    assert strip.shape == (48, 3 * 56, 3)
    assert np.array_equal(strip[:, :56], cv2.imread(str(trained / "rainy" / derained[0])))
    assert cv2.imread(str(results / "summary_mine.png")).shape[1] > 3 * 400
    photographs = json.loads((results / "summary.json").read_text())["photographs"]
    assert list(photographs) == ["mine", "mine_2", "mine_10"]  # in the order of their numbers
    pairs = [[cv2.imread(str(folder / name)) / 255 for folder in (trained / "rainy", results / "visualization/mine")]
             for name in derained]  # fmt: skip
    taken = np.mean([np.abs(rainy - image).mean() for rainy, image in pairs])
    assert photographs["mine"].pop("mean_change") == pytest.approx(taken, abs=0.5 / 255)
    assert photographs["mine"] == {"niqe": None, "split_error": 0.0, "images": 3}  # too small for NIQE
    assert len((results / "mine_metrics.csv").read_text().splitlines()) == 1 + 3


def test_a_log_is_read_while_it_is_written_and_cut_back_when_resumed(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_json_lines(path) == []
    log = JsonLog(str(path), 0)
    for iteration in (1, 2, 3):
        log.write({"iter": iteration, "l": 0.1 * iteration})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"iter": 4, "l"')
    assert [entry["iter"] for entry in read_json_lines(path)] == [1, 2, 3]
    JsonLog(str(path), 2).write({"iter": 3, "l": 7.0})
    assert read_json_lines(path) == [{"iter": 1, "l": 0.1}, {"iter": 2, "l": 0.2}, {"iter": 3, "l": 7.0}]
    JsonLog(str(path), 0)
    assert path.read_text(encoding="utf-8") == ""
    path.write_text('{"iter": 1}\n{"iter": null}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"log\.jsonl: line 2 is no entry of a log"):
        read_json_lines(path)


# resuming -------------------------------------------------------------------------------------------------------------
def test_resuming_continues_at_the_checkpoint_and_takes_back_what_came_after(trained, capsys):
    """As after a kill between the checkpoints of 4 and 6: the state of 6 is damaged."""
    experiment = trained / "experiments/tiny"
    shutil.rmtree(experiment)
    options = ["--force_yml", "val:val_freq=2", "logger:save_checkpoint_freq=2"]
    assert cli.main([*TRAIN, *options, "train:total_iter=6"]) == 0
    held = torch.load(experiment / "models/net_g_4.pth", weights_only=True)["params"]
    whole = torch.load(experiment / "models/net_s_latest.pth", weights_only=True)["params"]
    lines, best = ((experiment / name).read_text() for name in ("metrics.jsonl", "models/best.json"))
    state = experiment / "training_states/6.state"
    state.write_bytes(state.read_bytes()[:100])
    (experiment / "models/best.json").write_text('{"metric": "psnr", "value": 99, "iter": 6, "better": "higher"}')
    for path in (experiment / "models").glob("net_*_6.*"):
        path.unlink()
    capsys.readouterr()
    assert cli.main([*TRAIN, "--auto_resume", *options, "logger:print_freq=2"]) == 0
    log = capsys.readouterr().err
    assert "6.state: damaged or changed" in log
    assert ", iteration 4." in log
    # Stage 2 began after iteration 3, so the generator does not change and only the restorer continues.
    resumed = torch.load(experiment / "models/net_g_latest.pth", weights_only=True)["params"]
    assert all(torch.equal(resumed[key], held[key]) for key in held)
    resumed = torch.load(experiment / "models/net_s_latest.pth", weights_only=True)["params"]
    assert all(torch.equal(resumed[key], whole[key]) for key in whole)
    assert (experiment / "metrics.jsonl").read_text() == lines
    assert (experiment / "models/best.json").read_text() == best
    assert [entry["iter"] for entry in read_json_lines(experiment / "starts.jsonl")] == [0, 4]
    assert not list((trained / "experiments").glob("*archived*"))
    assert not list(experiment.rglob("*.tmp"))


def test_options_that_a_checkpoint_cannot_take_are_named_when_resuming(trained, capsys):
    command = [*TRAIN, "--auto_resume", "--force_yml"]
    assert cli.main([*command, "train:restorer_opt=~", "train:total_iter=8"]) == 2
    assert "6.state: contains 3 optimizers where these options need 2" in last_line(capsys)
    changes = ["train:optim_s:lr=5e-4", "train:total_iter=7", "train:scheduler:decay_from=0.9"]
    assert cli.main([*command, *changes]) == 0
    log = capsys.readouterr().err
    assert "train.optim_s.lr: 0.001 → 0.0005" in log
    assert "Optimizers continue with the rates and arguments of the checkpoint" in log
    assert "The schedule" not in log  # LinearDecayLR follows its options


def test_a_wrong_option_leaves_the_experiment_before_it_in_place(trained, capsys):
    before = sorted((trained / "experiments").rglob("*"))
    options = tiny_options()
    del options["network_d"]
    write_options(trained, options)
    assert cli.main(TRAIN) == 2
    assert "network_d is missing" in last_line(capsys)
    assert sorted((trained / "experiments").rglob("*")) == before


# two at once ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("command", "place"), [("train", "experiments"), ("test", "results"), ("check", "experiments")]
)
def test_a_second_run_of_one_name_is_refused_and_touches_nothing(folder, capsys, command, place):
    (folder / place / "tiny" / "models").mkdir(parents=True)
    if command == "test":
        write_test_options(folder)
    else:
        write_options(folder, tiny_options())
    with locked(folder / place / "tiny"):
        before = sorted(folder.rglob("*"))
        code = cli.main([command, "-opt", "options.yml"])
        assert sorted(folder.rglob("*")) == before
    assert code == (0 if command == "check" else 2)
    if code:
        assert last_line(capsys).startswith(f"error: {folder}/{place}/tiny: another run is at work in this folder; ")


# signals --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("where", "number"),
    [("launch.rehearse", signal.SIGINT), ("train.build_model", signal.SIGTERM), ("train.summarise", signal.SIGTERM)],
)
def test_a_signal_before_the_first_iteration_or_after_the_last_is_one_line_and_code_5(
    folder, monkeypatch, capsys, where, number
):
    write_options(folder, tiny_options())
    monkeypatch.setattr(f"nlcl_plugin.training.{where}", lambda *_, **__: signal.raise_signal(number))
    assert cli.main(TRAIN) == 5
    assert last_line(capsys) == "interrupted; run the same command again with --auto_resume"
    assert (folder / "experiments/tiny/training_states/6.state").exists() == (where == "train.summarise")


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_in_a_step_saves_its_state_and_resuming_makes_up_for_the_rest(folder, monkeypatch, capsys, last):
    write_options(folder, tiny_options())
    step = NLCLModel.optimize_parameters
    stop_at = 6 if last else 3

    def stopped(self, current_iter):
        step(self, current_iter)
        if current_iter == stop_at and self.opt["path"].get("log"):
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(NLCLModel, "optimize_parameters", stopped)
        patch.setattr("nlcl_plugin.training.launch.rehearse", lambda opt: {})
        assert cli.main(TRAIN) == 5
    assert "saved; resume with --auto_resume" in capsys.readouterr().err
    assert states(folder)[-1] == str(stop_at)
    assert not (folder / "experiments/tiny/summary.json").exists()
    assert cli.main([*TRAIN, "--auto_resume"]) == 0
    assert (folder / "experiments/tiny/summary.json").exists()
    assert f", iteration {stop_at}." in capsys.readouterr().err


def test_a_second_signal_ends_at_once():
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGINT) == signal.SIG_DFL


# faults ---------------------------------------------------------------------------------------------------------------
def test_training_that_collapses_stops_with_its_own_code(folder, capsys):
    options = tiny_options()
    options["train"].update(min_mean_rain=0.9, collapse_iter=2, restorer_opt=None)
    write_options(folder, options)
    assert cli.main(TRAIN) == 4
    assert last_line(capsys).startswith("stopped: the rain layer is empty")


@pytest.mark.parametrize(
    ("command", "changes"),
    [
        ("train", {"prefetch_mode": "cpu"}),
        ("train", {"num_worker_per_gpu": 1}),  # errors of workers arrive with their traceback as text
        ("test", {}),
    ],
)
def test_an_unreadable_image_is_named_in_one_line(folder, capsys, command, changes):
    (folder / "rainy" / "broken.png").write_bytes(b"\x89PNG not really")
    if command == "test":
        write_test_options(folder)
    else:
        options = tiny_options()
        options["datasets"]["train"].update(changes)
        write_options(folder, options)
    assert cli.main([command, "-opt", "options.yml"]) == 2
    assert last_line(capsys).startswith("error: rainy/broken.png")


def test_skipping_unreadable_images_trains_on_the_rest_and_lists_them(folder, capsys):
    (folder / "rainy" / "broken.png").write_bytes(b"nothing")
    options = tiny_options()
    options["datasets"]["train"].update(on_error="skip", num_worker_per_gpu=1)
    write_options(folder, options)
    assert cli.main(TRAIN) == 3
    assert "Trained without 1 file that could not be read:\n  rainy/broken.png" in capsys.readouterr().err
    assert (folder / "experiments/tiny/summary.json").is_file()


def test_a_missing_option_file_is_one_line(capsys):
    for name, hint in (("nothing.yml", ""), ("options/nlcl_smal.yml", "; did you mean 'nlcl_small.yml'?")):
        assert cli.main(["train", "-opt", name]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: cannot read the option file {name!r}: No such file or directory; correct the")
        assert said.endswith(f"one of `basicsr options`{hint}\n")


# stock BasicSR --------------------------------------------------------------------------------------------------------
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
    (folder / "own.py").write_text(
        "import multiprocessing\n"
        "import nlcl_plugin\n"
        "import nlcl_plugin as again\n"
        "from basicsr.train import train_pipeline\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.set_start_method({start_method!r})\n"
        "    train_pipeline('.')\n"
    )
    command = [sys.executable, "own.py", "-opt", "options.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (folder / "experiments/tiny/models/net_s_latest.pth").is_file()
