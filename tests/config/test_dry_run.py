"""`basicsr check` says what would be done, refuses what train and test refuse, and leaves no trace."""

import os
import re

import pytest
import torch
from test_check import PAIRED
from training_helpers import tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.config import rehearsal


def check(folder, options, capsys, *force_yml, full=False):
    """Run the command in this process; returns its exit code and what it printed."""
    path = write_options(folder, options)
    before = sorted(folder.rglob("*"))
    overrides = ["--force_yml", *force_yml] if force_yml else []
    code = cli.main(["check", "-opt", str(path), *(["--full"] if full else []), *overrides])
    assert sorted(folder.rglob("*")) == before
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_what_would_be_trained_on_what(folder, capsys):
    options, restorer = tiny_options(), ResidualUNet(num_feat=8, num_block=1)
    options["train"]["identity_opt"] = {"type": "L1Loss", "loss_weight": 0.25, "ramp_iter": 1000}
    code, out, err = check(folder, options, capsys, "train:total_iter=1200", "train:accumulate=2")
    assert (code, err) == (0, "")
    for line in (
        "tiny: trains NLCLModel (residual)",
        f"network_s: ResidualUNet, {sum(p.numel() for p in restorer.parameters()):,} parameters",
        "train: UnpairedImageDataset, 3 images, crops of 32 pixels; rainy (3), clean (5)",
        "val (pairs): PairedImageDataset, 2 images; val_rainy (2), val_clean (2)",
        "gan_opt: GANLoss × 1\n",
        "identity_opt: L1Loss × 0.25, rising from 0 over 1,000 iterations",
        "restorer_opt.pixel_opt: L1Loss × 1",
        "stage 1 (layers): iterations 1 to 3",
        "stage 2 (restorer on pseudo-pairs): iterations 4 to 1,200",
        "optim_g: type Adam, lr 0.0005",
        "2 images per step in 2 parts in each process; with one process: 1 step per epoch, 1,200 epochs",
        "CPU, fp32, seed 1",
        "every 100 iterations and at the end",
    ):
        assert line in out, line
    assert out.rstrip().endswith(os.path.join("experiments", "tiny"))
    states = folder / "experiments" / "tiny" / "training_states"
    states.mkdir(parents=True)
    for name in ("4.state", "12.state", "4.sha256"):
        (states / name).touch()
    _, out, _ = check(folder, options, capsys)
    assert "tiny: already exists; it would be renamed; --auto_resume continues from iteration 12" in out


def test_a_stock_model_with_layer_contrast_shows_both_weights(folder, capsys):
    code, out, err = check(folder, PAIRED, capsys)
    assert (code, err) == (0, "")
    assert "nlcl_opt: all of its losses × 0.5" in out
    assert "nlcl_opt.layer_opt: AsymmetricNLCLLoss × 0.5" in out
    assert re.search(r"network_p: ProjectionHeads, \d+ parameters", out)


def test_demo_data_is_named_and_not_made(folder, capsys):
    options = tiny_options(demo_data="demo")
    options["datasets"]["train"].update(dataroot_lq="demo/rainy", dataroot_gt="./demo/../demo/clean")
    code, out, _ = check(folder, options, capsys)
    assert code == 0
    assert "train: UnpairedImageDataset, demo data that would be made in demo, crops of 32 pixels" in out
    assert "val (pairs): PairedImageDataset, 2 images" in out
    for entry, message in (
        ("datasets:train:cache=yes please", "error: datasets.train.cache: got 'yes please', expected true or false\n"),
        ("demo_data=rainy", "exists and contains no demo data"),
    ):
        code, _, err = check(folder, options, capsys, entry)
        assert code == 2
        assert message in err


def test_a_test_file_is_checked_as_test_would(folder, capsys):
    options = {key: tiny_options()[key] for key in ("name", "model_type", "num_gpu", "network_s")}
    options["datasets"] = {"test": {"name": "mine", "type": "UnpairedImageDataset", "dataroot_lq": "rainy"}}
    options["path"] = {"pretrain_network_s": "net.pth"}
    torch.save({"params_ema": ResidualUNet(num_feat=4).state_dict()}, "net.pth")
    code, _, err = check(folder, options, capsys)
    assert code == 2
    assert "net.pth does not fit network_s" in err
    torch.save({"params_ema": ResidualUNet(num_feat=8, num_block=1).state_dict()}, "net.pth")
    code, out, err = check(folder, options, capsys)
    assert (code, err) == (0, "")
    for line in ("tiny: tests NLCLModel", "pretrain_network_s: net.pth", "test (mine): UnpairedImageDataset, 3 images",
                 "results/tiny"):  # fmt: skip
        assert line in out


@pytest.mark.parametrize(("full", "side"), [(False, 34), (True, 98)])
def test_the_step_is_rehearsed_at_the_smallest_crop_that_fits_or_at_the_real_one(
    folder, capsys, monkeypatch, full, side
):
    seen = []
    step = rehearsal._step
    monkeypatch.setattr(rehearsal, "_step", lambda model, opt, size: (step(model, opt, size), seen.append(size)))
    options = tiny_options()
    code, out, _ = check(folder, options, capsys, "datasets:train:gt_size=98", full=full)
    assert code == 0
    assert bool(re.search(r"with the crops of the training: [\d.]+ s\n", out)) == full
    assert seen == [side]
