"""Each named layout: a small tree of its shape is prepared, and BasicSR reads the result."""

import hashlib

import cv2
import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from layout_trees import PAIRED, UNPAIRED
from prepare_helpers import main, names, rain, records, scene, write_pair

from nlcl_plugin.data import UnpairedImageDataset, read_image


@pytest.mark.parametrize("layout", PAIRED)
def test_paired_layouts(layout, tmp_path, capsys):
    arguments, pairs = PAIRED[layout](tmp_path / "Source")
    output = tmp_path / "out"
    code = main([*map(str, arguments), "--layout", layout.split()[0], "--output", str(output)])
    assert code == 0, capsys.readouterr().err
    lines = records(output)
    check_manifest(output, lines)
    val = [line for line in lines if line["split"] == "val"]
    assert names(output, "val_rainy") == names(output, "val_clean") != []
    assert all(line["pair"] == line["path"].split("/")[1] for line in val)
    train_scenes = {
        role: {x["scene"] for x in lines if (x["split"], x["role"]) == ("train", role)} for role in ("rainy", "clean")
    }
    assert not train_scenes["rainy"] & train_scenes["clean"]  # no rainy image meets its clean twin
    read_by_basicsr(output, len(val) // 2)

    both = tmp_path / "both"
    command = [*map(str, arguments), "--layout", layout.split()[0], "--output", str(both), "--keep-twins", "--copy"]
    assert main(command) == 0
    assert sum(line["role"] == "rainy" for line in records(both)) == pairs
    check_pairs(both)


def check_manifest(output, lines):
    assert {line["path"] for line in lines} == {
        f"{folder}/{name}" for folder in ("rainy", "clean", "val_rainy", "val_clean") for name in names(output, folder)
    }
    for line in lines:
        data = (output / line["path"]).read_bytes()
        assert (line["bytes"], line["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (line["width"], line["height"]) == (56, 40)
    split_scenes = [{line["scene"] for line in lines if line["split"] == split} for split in ("train", "val")]
    assert not split_scenes[0] & split_scenes[1]
    assert (output / "summary.png").stat().st_size > 1000


def check_pairs(output):
    """Every rainy image's partner shows the same scene: their medians are nearer than those of others."""
    for line in records(output):
        if line["role"] == "rainy":
            folder = "clean" if line["split"] == "train" else "val_clean"
            apart = np.abs(read_image(output / line["path"]) - read_image(output / folder / line["pair"]))
            assert np.median(apart) < 0.02


def read_by_basicsr(output, pairs):
    folders = {"dataroot_lq": str(output / "val_rainy"), "dataroot_gt": str(output / "val_clean")}
    dataset = PairedImageDataset({**folders, "io_backend": {"type": "disk"}, "phase": "val", "scale": 1})
    assert len(dataset) == pairs
    for index in range(pairs):
        sample = dataset[index]
        assert sample["lq"].shape == sample["gt"].shape == (3, 40, 56)
        assert (sample["lq"] - sample["gt"]).abs().median() < 0.02
    train_from(output)


def train_from(output):
    folders = {"dataroot_lq": str(output / "rainy"), "dataroot_gt": str(output / "clean")}
    dataset = UnpairedImageDataset({**folders, "phase": "train", "gt_size": 16})
    for index in range(len(dataset)):
        assert dataset[index]["lq"].shape == dataset[index]["gt"].shape == (3, 16, 16)


@pytest.mark.parametrize("layout", UNPAIRED)
def test_unpaired_layouts(layout, tmp_path):
    arguments, paired_val = UNPAIRED[layout](tmp_path / "s")
    assert main([*map(str, arguments), "--layout", layout.split()[0], "--output", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out", "rainy") == [f"{seed}.jpg" for seed in range(5)]
    assert names(tmp_path / "out", "clean") == [f"x{seed}.png" for seed in range(3)]
    assert {line["pair"] for line in records(tmp_path / "out") if line["split"] == "train"} == {None}
    train_from(tmp_path / "out")
    if layout != "two-folders":
        assert names(tmp_path / "out", "val_rainy") == ["70.jpg", "71.jpg"]
        if paired_val:  # BasicSR pairs by whole names, so the clean ones take the ending too
            read_by_basicsr(tmp_path / "out", 2)
        else:
            assert names(tmp_path / "out", "val_clean") == ["70.png", "71.png"]


@pytest.mark.parametrize(
    ("how", "rainy_form", "clean_form", "options"),
    [
        ("stem", "{}.png", "{}.jpg", []),
        ("affix", "{}_rain.png", "{}_clean.png", ["--rainy-name", "{}_rain", "--clean-name", "{}_clean"]),
        ("regex", "rain-{}-a.png", "{}gt.png", ["--rainy-regex", r"(\d+)"]),
        ("order", "a{}.png", "b{:03}.png", []),
        ("list", "a {}.png", "b{}.png", ["--list", "pairs.txt"]),
    ],
)
def test_pair_by(tmp_path, monkeypatch, how, rainy_form, clean_form, options):
    monkeypatch.chdir(tmp_path)
    lines = []
    for seed in range(8, 13):
        write_pair(tmp_path / "r" / rainy_form.format(seed), tmp_path / "c" / clean_form.format(seed), seed)
        lines.append(f"{rainy_form.format(seed)} {clean_form.format(seed)}")
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    command = ["--pair-by", how, "--rainy", "r", "--clean", "c", *options]
    assert main([*command, "--output", "out", "--keep-twins"]) == 0
    assert len(records(tmp_path / "out")) == 10
    check_pairs(tmp_path / "out")


@pytest.mark.parametrize("deep", [False, True])
def test_halves_keep_their_pixels(tmp_path, deep):
    factor = 257 if deep else 1
    for seed in range(4):
        both = np.hstack([rain(scene(seed), seed), np.zeros((40, 1, 3), np.uint8), scene(seed)])
        path = tmp_path / "s" / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", both[..., ::-1].astype(np.uint16 if deep else np.uint8) * factor)[1])
    command = [str(tmp_path / "s"), "--layout", "side-by-side", "--rain-side", "left", "--keep-twins"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    for line in records(tmp_path / "out"):
        seed = int(line["source"][0])
        expected = scene(seed) if line["role"] == "clean" else rain(scene(seed), seed)
        assert np.abs(read_image(tmp_path / "out" / line["path"]) - expected.astype(np.float32) / 255).max() < 1e-6
