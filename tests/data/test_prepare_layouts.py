"""Each named layout: a small tree of its shape is prepared, and BasicSR reads the result."""

import numpy as np
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from prepare_helpers import names, rain, records, scene, tool, write_image, write_pair

from nlcl_plugin.data import UnpairedImageDataset


def spa(root):
    lines = []
    for video in range(6):
        for tile in range(2):
            rainy = f"real_world/{video:03}/{video:03}-1/{video:03}-1_{tile}.PNG"
            clean = f"real_world/{video:03}/gt/{video:03}_{tile}.png"
            write_pair(root / rainy, root / clean, 10 * video + tile)
            lines.append(f"/{rainy} /{clean}")
    (root / "real_world.txt").write_text("\n".join(lines))
    return [root], 12


def real_rain_1k(root):
    for split, seeds in (("train", range(6)), ("validation", range(6, 8)), ("test", range(8, 10))):
        for seed in seeds:
            base = root / "RealRain-1k-L" / split
            write_pair(base / "input" / f"{seed}.png", base / "target" / f"{seed}.png", seed)
    return [root], 8


def gt_rain(root):
    for split, seeds in (("train", range(4)), ("val", range(4, 6))):
        for seed in seeds:
            folder = root / f"GT-RAIN_{split}" / f"Place_{seed}"
            for frame in range(3):
                stem = f"Place_{seed}-Webcam"
                write_pair(folder / f"{stem}-R-{frame:03}.png", folder / f"{stem}-C-000.png", seed, frame)
    folder = root / "GT-RAIN_train" / "Gurutto_1-2"
    for frame in range(3):
        stem = "Gurutto_1-2-Webcam"
        write_pair(folder / f"{stem}-R-{frame:03}.png", folder / f"{stem}-C-{frame:03}.png", 20 + frame)
    return [root], 21


def lhp_rain(root):
    for split, seeds in (("train", range(6)), ("val", range(6, 8))):
        for seed in seeds:
            write_pair(root / split / "input" / f"r{seed}.png", root / split / "gt" / f"g{seed}.PNG", seed)
    return [root], 8


def rain100_old(root):
    for seed in range(1, 7):
        write_pair(root / f"rain-{seed:03}.png", root / f"norain-{seed:03}.png", seed)
    return [root], 6


def rain100_folders(root):
    for seed in range(1, 7):
        write_pair(root / "rainy" / f"rain-{seed:03}.png", root / "norain" / f"norain-{seed:03}.png", seed)
    return [root], 6


def rain200_new(root):
    for seed in range(1, 12):
        write_pair(root / "rain" / "X2" / f"norain-{seed}x2.png", root / "norain" / f"norain-{seed}.png", seed)
    return [root], 11


def rain1400(root):
    for seed in range(1, 12):
        for drop in (1, 14):
            write_pair(root / "rainy_image" / f"{seed}_{drop}.JPG", root / "ground_truth" / f"{seed}.jpg", seed, drop)
    return [root], 22


def outdoor_rain(root):
    for seed in range(1, 12):
        for drop in (1, 2):
            write_pair(root / "in" / f"im_{seed:04}_s80_a0{drop}.png", root / "gt" / f"im_{seed:04}.png", seed, drop)
    return [root], 22


def side_by_side(root):
    for seed in range(6):
        write_image(root / f"{seed}.png", np.hstack([scene(seed), rain(scene(seed), seed)]))
    return [root, "--rain-side", "right"], 6


LAYOUTS = {
    "SPA-Data": spa,
    "RealRain-1k": real_rain_1k,
    "GT-RAIN": gt_rain,
    "LHP-Rain": lhp_rain,
    "Rain100/200 old": rain100_old,
    "Rain100/200 folders": rain100_folders,
    "Rain100/200 new": rain200_new,
    "DDN/Rain1400": rain1400,
    "Outdoor-Rain": outdoor_rain,
    "side-by-side": side_by_side,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_paired_layouts(layout, tmp_path, capsys):
    arguments, pairs = LAYOUTS[layout](tmp_path / "Source")
    output = tmp_path / "out"
    code = tool().main([*map(str, arguments), "--layout", layout.split()[0], "--output", str(output)])
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
    assert tool().main(command) == 0
    assert sum(line["role"] == "rainy" for line in records(both)) == pairs
    check_pairs(both)


def check_manifest(output, lines):
    import hashlib

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
    from nlcl_plugin.data import read_image

    for line in records(output):
        if line["role"] == "rainy":
            folder = "clean" if line["split"] == "train" else "val_clean"
            apart = np.abs(read_image(output / line["path"]) - read_image(output / folder / line["pair"]))
            assert np.median(apart) < 0.02


def read_by_basicsr(output, pairs):
    dataset = PairedImageDataset(
        {
            "dataroot_lq": str(output / "val_rainy"),
            "dataroot_gt": str(output / "val_clean"),
            "io_backend": {"type": "disk"},
            "phase": "val",
            "scale": 1,
        }
    )
    assert len(dataset) == pairs
    for sample in dataset:
        assert sample["lq"].shape == sample["gt"].shape == (3, 40, 56)
        assert (sample["lq"] - sample["gt"]).abs().median() < 0.02
        if sample["lq_path"] == dataset.paths[-1]["lq_path"]:
            break
    train_from(output)


def train_from(output):
    dataset = UnpairedImageDataset(
        {
            "phase": "train",
            "dataroot_lq": str(output / "rainy"),
            "dataroot_gt": str(output / "clean"),
            "gt_size": 16,
        }
    )
    for index in range(len(dataset)):
        assert dataset[index]["lq"].shape == dataset[index]["gt"].shape == (3, 16, 16)


def test_two_folders(tmp_path):
    for seed in range(5):
        write_image(tmp_path / "r" / f"{seed}.JPG", scene(seed))
    for seed in range(3):
        write_image(tmp_path / "c" / f"x{seed}.png", scene(50 + seed))
    command = ["--layout", "two-folders", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    assert tool().main([*command, "--output", str(tmp_path / "out")]) == 0
    assert names(tmp_path / "out", "rainy") == [f"{seed}.jpg" for seed in range(5)]
    assert names(tmp_path / "out", "clean") == [f"x{seed}.png" for seed in range(3)]
    assert {line["pair"] for line in records(tmp_path / "out")} == {None}
    train_from(tmp_path / "out")


@pytest.mark.parametrize("paired", [False, True])
def test_train_a_train_b(tmp_path, paired):
    for seed in range(4):
        write_image(tmp_path / "s" / "trainA" / f"{seed}.JPG", scene(seed))
        write_image(tmp_path / "s" / "trainB" / f"{seed}.png", scene(50 + seed))
    for seed in range(70, 72):
        write_pair(tmp_path / "s" / "valA" / f"{seed}.jpg", tmp_path / "s" / "valB" / f"{seed}.png", seed)
    command = [str(tmp_path / "s"), "--layout", "trainA/trainB", "--output", str(tmp_path / "out")]
    assert tool().main(command + ["--paired-val"] * paired) == 0
    train_from(tmp_path / "out")
    assert names(tmp_path / "out", "val_rainy") == ["70.jpg", "71.jpg"]
    if paired:  # BasicSR pairs by whole names, so the clean ones take the ending too
        read_by_basicsr(tmp_path / "out", 2)
    else:
        assert names(tmp_path / "out", "val_clean") == ["70.png", "71.png"]


@pytest.mark.parametrize(
    ("how", "rainy_form", "clean_form", "options"),
    [
        ("stem", "{}.png", "{}.jpg", []),
        ("affix", "{}_rain.png", "{}_clean.png", ["--rainy-name", "{}_rain", "--clean-name", "{}_clean"]),
        ("regex", "rain-{}-a.png", "{}gt.png", ["--rainy-regex", r"(\d+)"]),
        ("order", "a{}.png", "b{}.png", []),
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
    assert tool().main([*command, "--output", "out", "--keep-twins"]) == 0
    assert len(records(tmp_path / "out")) == 10
    check_pairs(tmp_path / "out")
