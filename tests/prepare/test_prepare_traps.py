"""What real copies of the named datasets do to a tool: odd folders, stray files, scenes that leak, hidden twins."""

import numpy as np
import pytest
from layout_trees import PAIRED, UNPAIRED
from prepare_helpers import main, rain, records, scene, write_image, write_pair

from nlcl_plugin.prepare import Options, collect


def run(layout, source, output, *options):
    return main([str(source), "--layout", layout, "--output", str(output), *options])


@pytest.mark.parametrize("layout", [*PAIRED, *UNPAIRED])
def test_every_file_is_used_or_named(layout, tmp_path):
    arguments, _ = (PAIRED | UNPAIRED)[layout](tmp_path / "s")
    folders = [path for path in [tmp_path / "s", *(tmp_path / "s").rglob("*")] if path.is_dir()]
    folders.append(tmp_path / "s" / "odd")
    below = [folder for folder in folders if layout != "two-folders" or folder not in (tmp_path / "s", folders[-1])]
    for number, folder in enumerate(below):
        write_image(folder / f"stray{number}.png", scene(60 + number))
        (folder / f"film{number}.mp4").write_bytes(b"")
        (folder / f"anim{number}.gif").write_bytes(b"GIF89a")
    options = dict(zip(arguments[::2], arguments[1::2], strict=True)) if layout == "two-folders" else {}
    choices = Options(
        rainy=str(options["--rainy"]) if options else None,
        clean=str(options["--clean"]) if options else None,
        rain_side="right",
        paired_val="paired" in layout,
    )
    collection = collect(layout.split()[0], [] if options else [str(tmp_path / "s")], choices)
    used = {source.path for image in collection.images for source in (image.source, image.twin) if source}
    said = {drop.label for drop in collection.drops}
    for folder in below:
        for path in folder.glob("*"):
            if path.suffix not in (".gif", ".txt") and path.is_file():
                assert (str(path) in used) != (str(path) in said), path
    assert f"skipped {len(below)} files without the ending of an image or video" in collection.notes[-1]


@pytest.mark.parametrize(
    ("rainy", "clean"),
    [
        ("real_world/{v:03}/{v:03}-{f}/{v:03}-{f}_{t}_0.png", "real_world_gt/{v:03}/{v:03}_{t}_0.png"),
        ("train/rain/{v:03}/{f}_{t}.png", "train/gt/{v:03}/{t}.png"),
    ],
)
def test_tiles_of_one_video_stay_together(tmp_path, rainy, clean):
    lines = []
    for v in range(8):
        for t in range(3):
            for f in range(2):
                files = [form.format(v=v, f=f, t=t) for form in (rainy, clean)]
                write_pair(tmp_path / "s" / files[0], tmp_path / "s" / files[1], 10 * v + t, f)
                lines.append(f"/{files[0]} /{files[1]}")
    (tmp_path / "s" / "real_world.txt").write_text("\n".join(lines))
    assert run("SPA-Data", tmp_path / "s", tmp_path / "out", "--val-fraction", "0.4", "--keep-twins") == 0
    videos = {}
    for line in records(tmp_path / "out"):
        video = next(part for part in line["source"].split("/") if len(part) == 3 and part.isdigit())
        videos.setdefault(video, set()).add((line["split"], line["scene"]))
    assert len(videos) == 8
    assert all(len(found) == 1 for found in videos.values())
    assert {split for found in videos.values() for split, _ in found} == {"train", "val"}


def test_a_missing_file_does_not_shift_the_pairs_that_follow(tmp_path, capsys):
    for seed in range(6):
        write_pair(tmp_path / "s/input" / f"{seed}.png", tmp_path / "s/gt" / f"{seed}.png", seed)
    (tmp_path / "s/input/1.png").unlink()
    (tmp_path / "s/gt/4.png").unlink()  # the counts are equal
    assert run("LHP-Rain", tmp_path / "s", tmp_path / "out", "--keep-twins") == 0
    text = capsys.readouterr().out
    assert "1 × rainy image without a clean partner" in text
    assert "1 × clean image without a rainy partner" in text
    assert len(records(tmp_path / "out")) == 8


def test_twins_among_unpaired_images_are_warned_of(tmp_path, capsys):
    rainy, clean = (tmp_path / name for name in ("trainA", "trainB"))
    for seed in range(6):
        write_image(rainy / f"a{seed}.png", rain(scene(seed, (160, 220)), seed))
    for seed in range(3, 9):
        write_image(clean / f"b{seed}.png", scene(seed, (160, 220)))
    folders = ["--rainy", str(rainy), "--clean", str(clean)]
    command = ["--layout", "two-folders", *folders, "--output", str(tmp_path / "out")]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "note: 3 rainy images of training" in text
    assert f"{rainy / 'a3.png'} = {clean / 'b3.png'}, {rainy / 'a4.png'} = {clean / 'b4.png'}" in text
    assert main([*command, "--strict"]) == 2
    assert "--keep-twins if this is wanted" in capsys.readouterr().err
    assert main([*command, "--strict", "--keep-twins"]) == 0
    assert "note" not in capsys.readouterr().out


def veiled(image, strength):
    """Coarse noise, as heavy rain is to a perceptual hash."""
    noise = np.random.default_rng(0).normal(0, strength, (12, 16, 1)).repeat(14, 0).repeat(14, 1)
    return np.clip(image + noise[: image.shape[0], : image.shape[1]], 0, 255).astype(np.uint8)


def test_heavy_rain_hides_a_twin_from_all_but_its_name(tmp_path, capsys):
    image = scene(1, (160, 220))
    write_image(tmp_path / "r" / "1.png", veiled(image, 60))
    write_image(tmp_path / "r" / "2.png", scene(3, (160, 220)))
    write_image(tmp_path / "c" / "other.png", image)
    write_image(tmp_path / "c" / "2.png", scene(2, (160, 220)))
    command = ["--layout", "two-folders", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    assert main([*command, "--output", str(tmp_path / "others")]) == 0
    assert "note" not in capsys.readouterr().out
    (tmp_path / "c" / "other.png").rename(tmp_path / "c" / "1.png")
    assert main([*command, "--output", str(tmp_path / "same")]) == 0
    assert "note: 1 rainy images of training" in capsys.readouterr().out


def test_a_scene_in_training_and_validation_with_other_rain_is_warned_of(tmp_path, capsys):
    for split, seeds in (("train", range(4)), ("val", (3, 8))):
        for seed in seeds:
            image = scene(seed, (160, 220))
            clean = image if split == "train" else veiled(image, 20)
            write_image(tmp_path / "s" / split / "input" / f"{split}{seed}.png", rain(clean, len(split)))
            write_image(tmp_path / "s" / split / "target" / f"{split}{seed}.png", clean)
    assert run("RealRain-1k", tmp_path / "s", tmp_path / "out", "--keep-twins") == 0
    assert "note: 2 validation images look like training ones, with other rain" in capsys.readouterr().out
