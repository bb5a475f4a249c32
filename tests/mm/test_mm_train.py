"""Real trainings by `tools/mm_train.py`, and the same one through BasicSR's door."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mm_helpers
import mm_train
import mmengine.hooks
import mmengine.registry
import mmengine.runner
import pytest
import torch
import training_helpers
from mm_helpers import REPOSITORY, losses, train
from mmengine.config import Config

from nlcl_plugin.cli import main
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.mm.checkpoints import WholeCheckpointHook, WholeFileBackend
from nlcl_plugin.networks.weights import load_plain
from nlcl_plugin.training.json_log import read_json_lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mm")
    training_helpers.make_folders(folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """A work folder after 20 iterations of both stages."""
    with pytest.MonkeyPatch.context() as patch:
        assert in_process(folder, folder / "whole", patch) == 0
    return folder / "whole"


def same_training_for_basicsr():
    """The option file that mm_helpers.CONFIG is for MMEngine."""
    options = training_helpers.tiny_options(network_p={"type": "ProjectionHeads", "num_feat": 8})
    options["datasets"]["train"].update(use_hflip=True, use_vflip=True, dataset_enlarge_ratio=2)
    sampling = {"taps": [0, 2, 5], "num_image_patches": 4, "num_rain_patches": 6, "patch_size": 8, "search_size": 16}
    options["train"] = {
        "total_iter": 20,
        "ema_decay": 0.9,
        "optim_g": {"type": "Adam", "lr": 5e-4, "betas": [0.5, 0.999]},
        "optim_s": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]},
        "scheduler": {"type": "LinearDecayLR", "decay_from": 0.5, "min_factor": 0.02},
        "gan_opt": {"type": "GANLoss", "gan_type": "lsgan"},
        "identity_opt": {"type": "L1Loss", "ramp_iter": 350},
        "fidelity_opt": {"type": "L1Loss", "loss_weight": 0.5},
        "relay_opt": {"type": "RelayLoss", "loss_weight": 2.0, "ramp_iter": 100},
        "layer_opt": {"type": "AsymmetricNLCLLoss", "loss_weight": 0.1, "ramp_iter": 2, "sampling": sampling},
        "restorer_opt": {
            "start_iter": 10,
            "rounds": [4],
            "pixel_opt": {"type": "CharbonnierLoss", "eps": 2.5e-3},
            "gain": [0.9, 1.6],
            "rain_free": 0.1,
        },
    }
    options["logger"].update(print_freq=1, use_tb_logger=False)
    return options


def test_both_doors_have_the_same_losses_in_both_stages(folder, trained, monkeypatch):
    monkeypatch.chdir(folder)
    options = training_helpers.write_options(folder, same_training_for_basicsr())
    assert main(["train", "-opt", str(options)]) == 0
    expected = {entry["iter"]: entry for entry in read_json_lines(folder / "experiments" / "tiny" / "losses.jsonl")}
    found = losses(trained)
    assert sorted(found) == sorted(expected) == list(range(1, 21))
    assert "l_layer" in found[10]
    assert "l_restorer" in found[11]
    for current_iter, values in found.items():
        kept = {k: v for k, v in expected[current_iter].items() if k.startswith("l_") or k == "mean_rain"}
        assert values == pytest.approx(kept, abs=1e-5, rel=0), current_iter


def test_a_training_validates_and_shows_strips_of_layers(trained):
    (pictures,) = trained.glob("*/vis_data/vis_image")
    assert sorted(file.name for file in pictures.iterdir()) == ["0_20.png", "1_20.png"]
    assert training_helpers.cv2.imread(str(pictures / "0_20.png")).shape == (48, 3 * 56, 3)
    scalars = (pictures.parent / "scalars.json").read_text(encoding="utf-8").splitlines()
    assert json.loads(scalars[-1])["derained/psnr"] > 10


def test_a_second_training_in_a_work_folder_or_unjoined_processes_are_refused(folder, tmp_path, monkeypatch, capsys):
    with locked(tmp_path, inside=True):
        assert in_process(folder, tmp_path, monkeypatch) == 2
    assert f"error: {tmp_path}: another run is at work in this folder; " in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert in_process(folder, tmp_path, monkeypatch) == 2
    assert "error: 2 processes were started together (WORLD_SIZE=2)" in capsys.readouterr().err


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_iteration_is_one_line_and_code_5(folder, tmp_path, monkeypatch, capsys, number):
    monkeypatch.setattr(mmengine.runner.Runner, "from_cfg", lambda _: signal.raise_signal(number))
    assert in_process(folder, tmp_path, monkeypatch) == 5
    assert capsys.readouterr().err.splitlines()[-1] == "interrupted; run the same command again, with --resume"


# Ends the process in the middle of writing the first file that is larger than a limit.
KILLED_BY_SIZE = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_training_killed_in_a_save_goes_on_and_ends_with_the_weights_of_one_that_went_through(
    folder, trained, tmp_path, monkeypatch
):
    half = tmp_path / "half"
    half.mkdir()
    shutil.copy(trained / "iter_8.pth", half)  # in stage 1, in the middle of an epoch
    (half / "last_checkpoint").write_text(str(half / "iter_8.pth"), encoding="utf-8")
    keep = "default_hooks.checkpoint.max_keep_ckpts=1"
    arguments = ["--resume", "--work-dir", str(half), "--cfg-options", keep]
    limit = str((half / "iter_8.pth").stat().st_size // 2)
    tool = str(REPOSITORY / "tools" / "mm_train.py")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_BY_SIZE, limit, tool, str(folder / "tiny.py"), *arguments],
        cwd=folder, env=mm_helpers.environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGXFSZ, killed.stderr[-3000:]
    assert [file.name for file in half.glob("*.pth")] == ["iter_8.pth"]
    assert max(losses(half)) == 16
    assert in_process(folder, half, monkeypatch, keep, "resume=True") == 0
    assert [file.name for file in half.glob("iter_*")] == ["iter_20.pth"]
    whole, resumed = (torch.load(place / "iter_20.pth")["state_dict"] for place in (trained, half))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert losses(half) == {k: v for k, v in losses(trained).items() if k > 8}


def in_process(folder, tmp_path, monkeypatch, *changes, config="tiny.py", launcher="none"):
    """Run the tool here; its exit code."""
    (folder / "tiny.py").write_text(mm_helpers.CONFIG, encoding="utf-8")
    monkeypatch.chdir(folder)
    name = f"experiment_name={tmp_path.name}"  # MMEngine's loggers are told apart by it and the second
    arguments = ["--work-dir", str(tmp_path), "--launcher", launcher, "--cfg-options", name, *changes]
    return mm_train.main([config, *arguments])


def test_old_checkpoints_go_when_the_new_ones_are_there(folder, tmp_path, monkeypatch):
    put, seen = WholeFileBackend.put, []

    def watched(self, obj, filepath):
        seen.append((Path(filepath).name.split("_")[0], {path.name.split("_")[0] for path in tmp_path.glob("*.pth")}))
        put(self, obj, filepath)

    monkeypatch.setattr(WholeFileBackend, "put", watched)
    hook = "default_hooks.checkpoint"
    changes = [f"{hook}.max_keep_ckpts=1", f"{hook}.interval=2", "train_cfg.val_interval=2"]
    changes += [f"{hook}.save_best=derained/psnr", f"{hook}.rule=less"]  # it falls at first
    assert in_process(folder, tmp_path, monkeypatch, *changes, "train_cfg.max_iters=6") == 0
    for metric, rule in (("psnr", "greater"), ("niqe", "less")):
        assert WholeCheckpointHook(save_best=f"derained/{metric}").rules == [rule]
    for kind in ("iter", "best"):
        there = [others for written, others in seen if written == kind]
        assert len(there) > 1
        assert all(kind in others for others in there[1:])
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == str(tmp_path / "iter_6.pth")
    assert sorted(path.name.split("_")[0] for path in tmp_path.glob("*.pth")) == ["best", "iter"]


def test_a_metric_that_no_image_has_is_not_the_best_and_the_log_says_so(folder, tmp_path, monkeypatch):
    changes = ["val_evaluator.0.type=NIQE", "default_hooks.checkpoint.save_best=derained/niqe"]
    changes += ["train_cfg.max_iters=2", "train_cfg.val_interval=1"]
    assert in_process(folder, tmp_path, monkeypatch, *changes) == 0
    (scalars,) = tmp_path.glob("*/vis_data/scalars.json")
    for line in scalars.read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    (log,) = tmp_path.glob("*/*.log")
    assert "niqe (over 0 of 2 images; none for val_rainy/0.png, val_rainy/1.png)" in log.read_text(encoding="utf-8")
    assert not list(tmp_path.glob("best_*"))


def test_networks_that_are_loaded_and_not_resumed_begin_with_stage_one(folder, trained, tmp_path, monkeypatch):
    changes = [f"load_from={trained / 'iter_20.pth'}", "train_cfg.max_iters=1"]
    assert in_process(folder, tmp_path, monkeypatch, *changes) == 0
    assert "l_layer" in losses(tmp_path)[1]


def test_a_training_begins_with_the_weights_of_a_network_file(folder, trained, tmp_path, monkeypatch):
    whole = torch.load(trained / "iter_20.pth", weights_only=True)["state_dict"]
    own = {name.removeprefix("generator."): value for name, value in whole.items() if name.startswith("generator.")}
    torch.save({"params": own, "params_ema": own}, tmp_path / "net.pth")
    changes = [f"load_from={tmp_path / 'net.pth'}", "train_cfg.max_iters=1", "optim_wrapper.optimizer.lr=1e-30"]
    assert in_process(folder, tmp_path, monkeypatch, *changes) == 0
    found = torch.load(tmp_path / "iter_1.pth", weights_only=True)["state_dict"]
    for key, value in own.items():
        for kind in ("generator.", "average_generator."):
            torch.testing.assert_close(found[kind + key], value, msg=f"{kind}{key}")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_with_their_batches_together_and_resume(folder, trained, tmp_path):
    changes = ["--cfg-options", "train_dataloader.batch_size=1", "model_wrapper_cfg=None"]
    train(folder, folder / "tiny.py", "--work-dir", tmp_path / "whole", *changes, "train_cfg.max_iters=12")
    for end in (8, 12):
        train(folder, folder / "tiny.py", "--resume", "--work-dir", tmp_path / "parts", *changes,
              f"train_cfg.max_iters={end}")  # fmt: skip
    found, expected = losses(tmp_path / "whole"), losses(trained)
    assert sorted(found) == list(range(1, 13))
    for current_iter in (1, 2, 3):
        assert found[current_iter] == pytest.approx(expected[current_iter], rel=1e-3, abs=1e-6)
    whole, parts = (torch.load(tmp_path / name / "iter_12.pth")["state_dict"] for name in ("whole", "parts"))
    # Without `module.`, of which MMEngine would load none.
    assert list(whole) == list(torch.load(trained / "iter_20.pth")["state_dict"])
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())


# deraining ------------------------------------------------------------------------------------------------------------
RAINY = torch.rand(1, 3, 19, 26, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("weights", "iteration", "label"), [("", 20, "s"), ("iter_8.pth", 8, "g")])
def test_a_checkpoint_derains_without_a_config_as_its_model_does(trained, weights, iteration, label):
    cfg = Config.fromfile(str(next(trained.glob("tiny.py"))))
    model = mmengine.registry.MODELS.build(cfg.model).eval()
    content = torch.load(trained / f"iter_{iteration}.pth")
    model.load_state_dict(content["state_dict"])
    derainer = load_derainer(trained / weights)
    with torch.no_grad():
        torch.testing.assert_close(derainer(RAINY), model(RAINY))
    assert (derainer.source.name, derainer.about["label"]) == (f"iter_{iteration}.pth", label)
    assert derainer.about["iter"] == iteration
    average = model.average_generator(RAINY)
    torch.testing.assert_close(load_derainer(trained / weights, label="g")(RAINY), average)


def test_a_checkpoint_contains_plain_values_and_networks_that_were_trained(trained, tmp_path):
    content = load_plain(trained / "iter_8.pth")
    assert list(content["nlcl_plugin"]) == ["average_generator"]
    assert list(load_plain(trained / "iter_20.pth")["nlcl_plugin"]) == ["average_generator", "average_restorer"]
    with pytest.raises(InputError, match=r"iter_8\.pth: contains no trained net_s, but net_g; give another file"):
        load_derainer(trained / "iter_8.pth", label="s")
    torch.save({"state_dict": content["state_dict"], "meta": content["meta"]}, tmp_path / "other.pth")
    with pytest.raises(
        InputError, match=r"other\.pth: does not say which networks it contains; give a checkpoint that"
    ):
        load_derainer(tmp_path / "other.pth")


@mmengine.registry.HOOKS.register_module()
class SignalHook(mmengine.hooks.Hook):
    """Asks its own process to end after the second iteration."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)


SIGNALLED = """
_base_ = ["tiny.py"]
custom_hooks = [dict(type="SignalHook")]
"""
EPOCHS = """
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=9)
train_dataloader = dict(batch_sampler=None)
"""


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("more", ["", EPOCHS])
def test_sigterm_saves_one_checkpoint_and_ends_with_code_5(folder, tmp_path, monkeypatch, more):
    (folder / "signalled.py").write_text(SIGNALLED + more, encoding="utf-8")
    assert in_process(folder, tmp_path, monkeypatch, config="signalled.py") == 5
    assert [path.name for path in tmp_path.glob("*.pth")] == ["iter_2.pth"]
    assert torch.load(tmp_path / "iter_2.pth")["meta"]["iter"] == 2
    assert (tmp_path / "last_checkpoint").read_text(encoding="utf-8") == str(tmp_path / "iter_2.pth")


@pytest.mark.parametrize(
    ("config", "change", "code", "message"),
    [
        ("broken.py", "a=1", 2, "error: broken.py: "),
        ("tiny.py", "seed", 2, "error: --cfg-options: expected KEY=VALUE, but received 'seed'"),
        ("tiny.py", "model.train_cfg.gan_optt=3", 2, "error: model.train_cfg.gan_optt: unknown option"),
        ("tiny.py", "load_from=tiny.py", 2, "error: tiny.py: the checkpoint is damaged, or not one of MMEngine"),
        ("tiny.py", "train_dataloader.dataset.opt.gt_size=8", 2, "error: model, with images of 8×8 pixels: the disc"),
        ("tiny.py", "model.train_cfg.min_mean_rain=0.9", 4, "stopped: the rain layer is empty"),
    ],
)
def test_faults_end_in_one_line_and_their_exit_code(
    folder, tmp_path, monkeypatch, capsys, config, change, code, message
):
    (folder / "broken.py").write_text("a = (", encoding="utf-8")
    assert in_process(folder, tmp_path, monkeypatch, change, config=config) == code
    printed = capsys.readouterr().err
    assert message in printed.splitlines()[-1]
    assert "Traceback" not in printed
