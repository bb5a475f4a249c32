"""A layout of pairs and an unpaired one all the way: prepared, in verified LMDBs, read by BasicSR, trained from."""

import json
from pathlib import Path

import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from layout_trees import PAIRED, UNPAIRED
from lmdb_helpers import tool
from training_helpers import tiny_options, write_options

from nlcl_plugin.cli import main


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["GT-RAIN", "two-folders"])
def test_from_a_layout_to_a_training(layout, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*map(str, (PAIRED | UNPAIRED)[layout](tmp_path / "source")[0]), "--layout", layout]
    assert tool("prepare_rain_dataset").main([*arguments, "--output", "tree"]) == 0
    for folder in Path("tree").glob("*/"):
        if count := len(list(folder.iterdir())):
            assert tool("create_lmdb").main(["--input", str(folder), "--output", f"{folder.name}.lmdb"]) == 0
            assert tool("verify_lmdb").main([f"{folder.name}.lmdb", "--against", str(folder)]) == 0
            assert f"{count} compared" in capsys.readouterr().out
    lmdb = {"type": "lmdb"}
    options = tiny_options()
    train = {**options["datasets"]["train"], "dataroot_lq": "rainy.lmdb", "dataroot_gt": "clean.lmdb"}
    options["datasets"] = {"train": {**train, "gt_size": 32, "batch_size_per_gpu": 1, "io_backend": lmdb}}
    if layout in PAIRED:
        roots = {"dataroot_lq": str(tmp_path / "val_rainy.lmdb"), "dataroot_gt": str(tmp_path / "val_clean.lmdb")}
        val = {"type": "PairedImageDataset", "name": "pairs", **roots, "io_backend": lmdb}
        options["datasets"]["val"] = val
        sample = PairedImageDataset({**val, "io_backend": dict(lmdb), "phase": "val", "scale": 1})[0]
        assert (sample["lq"] - sample["gt"]).abs().median() < 0.02  # one scene
    options["train"] |= {"total_iter": 2, "restorer_opt": {"start_iter": 1}}
    write_options(tmp_path, options)
    assert main(["train", "-opt", "options.yml"]) == 0
    experiment = tmp_path / "experiments" / "tiny"
    assert (experiment / "training_states" / "2.state").is_file()
    if layout in PAIRED:
        assert json.loads((experiment / "summary.json").read_text())["psnr"]["rainy"] > 10
