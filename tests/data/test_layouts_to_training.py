"""Each named layout all the way: prepared, made an LMDB, verified, read by stock BasicSR, and trained from."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from basicsr.data.data_util import paths_from_lmdb
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient, imfrombytes
from layout_trees import PAIRED, UNPAIRED
from lmdb_helpers import tool
from prepare_helpers import records

from nlcl_plugin.data import read_image

sys.path.append(str(Path(__file__).resolve().parents[1] / "training"))
from training_helpers import tiny_options, write_options

LAYOUTS = PAIRED | UNPAIRED
FOLDERS = ("rainy", "clean", "val_rainy", "val_clean")
# All trainings in one process: to start one takes longer than to train.
TRAIN = """
import os, sys, traceback
from nlcl_plugin.cli import main
for folder in sys.argv[1:]:
    os.chdir(folder)
    try:
        code = main(["train", "-opt", "options.yml"])
    except BaseException:
        code = traceback.format_exc()
    with open("code.txt", "w") as file:
        file.write(str(code))
"""


def folder_of(root, layout):
    return root / layout.replace("/", "-").replace(" ", "-")


def has_pairs(layout):
    return layout in PAIRED or "paired" in layout


def options_of(layout):
    lmdb = {"type": "lmdb"}
    options = tiny_options()
    train = {**options["datasets"]["train"], "dataroot_lq": "rainy.lmdb", "dataroot_gt": "clean.lmdb"}
    options["datasets"] = {"train": {**train, "gt_size": 32, "batch_size_per_gpu": 1, "io_backend": lmdb}}
    if has_pairs(layout):
        options["datasets"]["val"] = {
            "name": "pairs",
            "type": "PairedImageDataset",
            "dataroot_lq": "val_rainy.lmdb",
            "dataroot_gt": "val_clean.lmdb",
            "io_backend": lmdb,
        }
    options["train"] |= {"total_iter": 2, "restorer_opt": {"start_iter": 1}}
    return options


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All layouts, prepared, in LMDBs, and trained two iterations on; the prepared trees stay for comparison."""
    root = tmp_path_factory.mktemp("layouts")
    prepare, create = tool("prepare_rain_dataset").main, tool("create_lmdb").main
    for layout, build in LAYOUTS.items():
        here = folder_of(root, layout)
        arguments = [*map(str, build(here / "source")[0]), "--layout", layout.split()[0]]
        assert prepare([*arguments, "--output", str(here / "tree")]) == 0, layout
        for name in FOLDERS:
            if any((here / "tree" / name).iterdir()):
                command = ["--input", str(here / "tree" / name), "--output", str(here / f"{name}.lmdb")]
                assert create(command) == 0, (layout, name)
        write_options(here, options_of(layout))
    folders = [str(folder_of(root, layout)) for layout in LAYOUTS]
    done = subprocess.run([sys.executable, "-c", TRAIN, *folders], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_lmdbs_verify_against_the_prepared_folders(trained, layout, capsys):
    here = folder_of(trained, layout)
    lmdbs = sorted(path.stem for path in here.glob("*.lmdb"))
    assert lmdbs == sorted(FOLDERS if layout != "two-folders" else FOLDERS[:2])
    for name in lmdbs:
        code = tool("verify_lmdb").main([str(here / f"{name}.lmdb"), "--against", str(here / "tree" / name)])
        count = len(list((here / "tree" / name).iterdir()))
        text = capsys.readouterr().out
        assert code == 0, text
        assert f"{count} images decoded" in text
        assert f"{count} compared" in text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stock_basicsr_reads_every_image_of_the_lmdbs(trained, layout):
    here = folder_of(trained, layout)
    for path in sorted(here.glob("*.lmdb")):
        lines = [line for line in records(here / "tree") if line["path"].split("/")[0] == path.stem]
        keys = paths_from_lmdb(str(path))
        assert sorted(keys) == sorted(line["path"].split("/")[1].rsplit(".", 1)[0] for line in lines)
        client = FileClient("lmdb", db_paths=str(path))
        for line in lines:
            key = line["path"].split("/")[1].rsplit(".", 1)[0]
            stock = imfrombytes(client.get(key), float32=True)[..., ::-1]
            assert np.array_equal(stock, read_image(here / "tree" / line["path"])), line["path"]


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if has_pairs(layout)])
def test_stock_basicsr_reads_the_validation_pairs(trained, layout):
    here = folder_of(trained, layout)
    dataset = PairedImageDataset(
        {**options_of(layout)["datasets"]["val"], "phase": "val", "scale": 1}
        | {
            "dataroot_lq": str(here / "val_rainy.lmdb"),
            "dataroot_gt": str(here / "val_clean.lmdb"),
        }
    )
    assert len(dataset) == len(list((here / "tree" / "val_rainy").iterdir())) > 0
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["lq"].shape == sample["gt"].shape == (3, 40, 56)
        assert (sample["lq"] - sample["gt"]).abs().median() < 0.02  # one scene


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_iterations_of_training_run_from_the_lmdbs(trained, layout):
    here = folder_of(trained, layout)
    assert (here / "code.txt").read_text() == "0"
    experiment = here / "experiments" / "tiny"
    assert (experiment / "training_states" / "2.state").is_file()
    assert (experiment / "summary.json").exists() == has_pairs(layout)
    if has_pairs(layout):
        assert json.loads((experiment / "summary.json").read_text())["psnr"]["rainy"] > 10
