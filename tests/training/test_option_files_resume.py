"""Every option file that trains, except for sizes, length and folders: killed, it continues as if it was not."""

import json
import multiprocessing
import os
import signal
import sys

import pytest
import torch
from conftest import REPOSITORY
from test_addon_option_files import ESRGAN, SWINIR, TINY, losses, make_pairs
from training_helpers import make_folders

from nlcl_plugin import cli
from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.data.lmdb.encode import Cut

ITERATIONS, SAVED, KILLED = 4, 2, 3

COMMON = [
    *("num_gpu=0", "demo_data=~", "datasets:val_2=~", f"train:total_iter={ITERATIONS}", f"val:val_freq={SAVED}"),
    *("datasets:train:batch_size_per_gpu=2", "datasets:train:num_worker_per_gpu=1", "datasets:train:gt_size=32"),
    *("logger:print_freq=1", f"logger:save_checkpoint_freq={SAVED}", "logger:use_tb_logger=false"),
]
PATCHES = ["num_image_patches=4", "num_rain_patches=6", "patch_size=8", "search_size=16"]
TWO_NETS = ["network_g:num_feat=4", "network_g:num_block=1", "network_d:num_feat=4", "network_d:num_layers=2"]
UNPAIRED = [
    *(*COMMON, *TWO_NETS),
    *("network_p:num_feat=8", "train:layer_opt:sampling:taps=[0, 2]"),
    *(f"train:layer_opt:sampling:{patches}" for patches in PATCHES),
]
PAPER = [
    *UNPAIRED,
    *("network_r:num_feat=4", "network_r:num_block=1"),
    *("train:location_opt:sampling:taps=[0, 1]", "train:location_opt:sampling:num_patches=8"),
]
FOLDERS = [
    f"datasets:{split}:dataroot_{key}=datasets/rain/{'' if split == 'train' else 'val_'}{folder}"
    for split in ("train", "val")
    for key, folder in (("lq", "rainy"), ("gt", "clean"))
]
STAGES = [*UNPAIRED, *FOLDERS, "train:restorer_opt:start_iter=1"]  # stage 2 begins with iteration 2
SMALL = [
    *(*COMMON, *TWO_NETS, *FOLDERS, "network_s:num_feat=4", "network_s:num_block=1"),
    *("train:restorer_opt:start_iter=1", "train:restorer_opt:rounds=[1]"),
]
# Labels of the networks, and what makes the file small.
SIZES = {
    **dict.fromkeys(("nlcl", "nlcl_4gpu", "nlcl_2x8gpu_multinode", "nlcl_lmdb"), ("dgpr", PAPER)),
    "nlcl_quickstart": ("dgps", [*STAGES, "network_s:num_feat=4", "network_s:num_block=1"]),
    **dict.fromkeys(("nlcl_small", "nlcl_best"), ("dgs", SMALL)),
    "restorer_swinir": ("dgps", [*STAGES, "network_s:depths=[1]", "network_s:embed_dim=12", "network_s:num_heads=[2]"]),
    "restorer_rcan": ("dgps", [*STAGES, "network_s:num_group=1", "network_s:num_block=1", "network_s:num_feat=8"]),
    "restorer_edsr": ("dgps", [*STAGES, "network_s:num_block=1", "network_s:num_feat=8"]),
    "restorer_simple_gate": ("dgps", [*STAGES, "network_s:num_feat=4"]),
    "restorer_from_bank": (
        "g",
        [
            *(*COMMON, *(folder for folder in FOLDERS if "train:dataroot_lq" not in folder)),
            *("datasets:train:dataroot_rain=datasets/rain/rainy", "network_g:num_feat=4"),
        ],
    ),
    "restorer_rendered": (
        "g",
        [*(*COMMON, *(folder for folder in FOLDERS if "train:dataroot_lq" not in folder)), "network_g:num_feat=4"],
    ),
    "restorer_context": (
        "g",
        [
            *(*COMMON, *(folder for folder in FOLDERS if "train:dataroot_lq" not in folder)),
            *("network_g:num_feat=4", "path:pretrain_network_g=~"),
        ],
    ),
    "nlcl_real": ("s", [*COMMON, *FOLDERS, "train:restorer_opt:rounds=[0, 2]"]),
    SWINIR: ("gp", [*TINY[SWINIR], *COMMON]),
    ESRGAN: ("dgp", [*TINY[ESRGAN], *COMMON]),
}


def command(folder, arguments, killed_before):
    """Run the command in this process, which a kill ends before an iteration begins."""
    multiprocessing.set_start_method("fork", force=True)  # of the loader's workers, as in a process of one's own
    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if killed_before:
        from nlcl_plugin.training import train

        step = train._Run._step
        train._Run._step = lambda run, batch: (
            os.kill(os.getpid(), signal.SIGKILL) if run.current_iter + 1 == killed_before else step(run, batch)
        )
    sys.exit(cli.main(arguments))


@pytest.fixture(scope="module")
def forked():
    """Runs the command in processes that are forked from one that has imported everything; gives code and output."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nlcl_plugin.training.launch", "nlcl_plugin.training.train", "safetensors.torch"])

    def run(folder, *arguments, killed_before=None):
        process = context.Process(target=command, args=(folder, list(map(str, arguments)), killed_before))
        process.start()
        process.join(300)
        return process.exitcode, (folder / "log.txt").read_text(encoding="utf-8")

    return run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of a training on unpaired images (False) and on pairs (True)."""
    unpaired, paired = (tmp_path_factory.mktemp(name) for name in ("unpaired", "paired"))
    root = unpaired / "datasets" / "rain"
    root.mkdir(parents=True)
    make_folders(root)
    for kind in ("rainy", "clean"):
        create_lmdb(root / kind, root / f"{kind}.lmdb", cut=Cut(480, 240))
    make_pairs(paired)
    return {False: unpaired, True: paired}


def test_every_option_file_is_here():
    files = {path.stem for path in (REPOSITORY / "options").glob("*.yml")}
    assert files - {"nlcl_test"} == set(SIZES)


DEFAULT = {"nlcl", SWINIR}  # ours and the mix-in


NAMES = [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in SIZES]


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_training_continues_with_the_losses_of_one_that_was_not(forked, folders, name):
    folder = folders[name in TINY]
    labels, sizes = SIZES[name]
    options = ["train", "-opt", REPOSITORY / "options" / f"{name}.yml", "--force_yml", *sizes]
    code, text = forked(folder, *options, "name=whole")
    assert code == 0, text[-3000:]
    code, text = forked(folder, *options, f"name={name}", killed_before=KILLED + 1)
    assert code == -signal.SIGKILL, text[-3000:]
    assert len(losses(folder, name)) == KILLED
    code, text = forked(folder, *options, f"name={name}", "--auto_resume")
    assert code == 0, text[-3000:]
    assert f", iteration {SAVED}." in text
    expected, found = losses(folder, "whole"), losses(folder, name)
    assert [entry["iter"] for entry in expected] == list(range(1, ITERATIONS + 1))
    assert found == expected
    if name in TINY:
        assert all(0 < entry["l_nlcl_above_floor"] < entry["l_nlcl"] for entry in found)
    # Every network of the stage has learned something and been saved as it was, and every validation image derained.
    whole, before, after = (trained(folder, *run) for run in (("whole", "latest"), (name, SAVED), (name, "latest")))
    assert sorted(after) == list(labels)
    assert ("l_restorer" in found[-1]) == ("s" in after)
    for label, weights in after.items():
        assert all(torch.equal(value, whole[label][key]) for key, value in weights.items()), label
        learned = any(not torch.equal(value, before[label][key]) for key, value in weights.items())
        assert learned == (label == "s" or "s" not in after), label
        assert (folder / "experiments" / name / "models" / f"net_{label}_latest.safetensors").is_file()
    assert json.loads((folder / "experiments" / name / "summary.json").read_text(encoding="utf-8"))["images"] == 2


def trained(folder, name, iteration):
    """Weights of a checkpoint, by the networks' labels."""
    paths = (folder / "experiments" / name / "models").glob(f"net_*_{iteration}.pth")
    return {path.name.split("_")[1]: torch.load(path, weights_only=True)["params"] for path in paths}
