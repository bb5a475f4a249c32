"""What is sifted out, how scenes are split, and what is found to leak."""

import itertools
import json
import tracemalloc

import cv2
import numpy as np
import pytest
from prepare_helpers import names, rain, records, scene, tool, write_image, write_pair

from nlcl_plugin.data.image_io import encode_png, to_float
from nlcl_plugin.data.prepare import Collection, Facts, Settings, Shot, Source, hashing, make_plan
from nlcl_plugin.data.prepare.hashing import dhash, distances, signs
from nlcl_plugin.data.prepare.inspection import facts_of
from nlcl_plugin.data.prepare.names import output_names
from nlcl_plugin.errors import InputError


def made_up(scenes=20, per_scene=3):
    """A collection of pairs without files, and facts of which no two are alike."""
    shots, facts = [], {}
    numbers = itertools.count()

    def add(name):
        number = next(numbers)
        source = Source(f"/s/{name}", name)
        bits = int.from_bytes(np.random.default_rng(number).bytes(16), "big")
        facts[source] = Facts(1, f"{number:064x}", 8, 8, bits, 0.5, 0)
        return source

    for index in range(scenes):
        clean = add(f"gt/{index}.png")
        shots.append(Shot(clean, "clean", f"scene{index}"))
        shots += [Shot(add(f"in/{index}_{k}.png"), "rainy", f"scene{index}", None, clean) for k in range(per_scene)]
    return Collection(shots), facts


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.5])
def test_splits_and_halves_never_share_a_scene(seed, fraction):
    plan = make_plan(*made_up(), settings=Settings(val_fraction=fraction, seed=seed))
    scenes = {
        key: {item.scene for item in plan.items if (item.split, item.role) == key}
        for key in itertools.product(("train", "val"), ("rainy", "clean"))
    }
    assert scenes["val", "rainy"] == scenes["val", "clean"]
    assert len(scenes["val", "rainy"]) == round(20 * fraction)
    parts = [scenes["val", "rainy"], scenes["train", "rainy"], scenes["train", "clean"]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    # Nothing is lost silently.
    assert len(plan.drops) + len({item.source for item in plan.items}) == 80
    assert plan == make_plan(*made_up(), settings=Settings(val_fraction=fraction, seed=seed))
    assert plan != make_plan(*made_up(), settings=Settings(val_fraction=fraction, seed=seed + 1))


def test_scenes_that_share_a_file_count_as_one():
    collection, facts = made_up()
    sources = list(facts)
    facts[sources[0]] = facts[sources[4]]  # the clean images of scenes 0 and 1
    for seed in range(8):
        plan = make_plan(collection, facts, settings=Settings(val_fraction=0.5, seed=seed))
        splits = {item.split for item in plan.items if item.source.name.split("/")[1][:2] in ("0_", "1_", "0.", "1.")}
        assert len(splits) == 1
    assert any("count as one" in note for note in plan.notes)


@pytest.mark.parametrize("near", [False, True])
def test_leakage_between_given_splits_is_found(tmp_path, capsys, near):
    for split, seeds in (("train", range(6)), ("val", (6, 3))):
        for seed in seeds:
            base = tmp_path / "s" / split
            write_pair(
                base / "input" / f"{split}{seed}.png", base / "target" / f"{split}{seed}.png", seed, split == "val"
            )
    if near:  # other bytes, the same view
        write_image(tmp_path / "s/val/target/val3.png", np.clip(scene(3).astype(int) + 3, 0, 255).astype(np.uint8))
    command = [str(tmp_path / "s"), "--layout", "RealRain-1k", "--output", str(tmp_path / "out"), "--keep-twins"]
    assert tool().main(command) == 2
    error = capsys.readouterr().err
    assert "val3.png" in error
    assert "train3.png" in error
    assert "val6" not in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".facts.jsonl"]  # what was read is not lost
    assert tool().main([*command, "--allow-leakage"]) == 0
    assert "training too" in capsys.readouterr().out


def test_drops_are_counted_with_examples(tmp_path, capsys):
    for seed in range(6):
        write_pair(tmp_path / "r" / f"{seed}.png", tmp_path / "c" / f"{seed}.png", seed)
    for seed in range(20, 27):
        write_image(tmp_path / "r" / f"{seed}.png", scene(seed))
    write_image(tmp_path / "c" / "30.png", scene(30))
    write_image(tmp_path / "r" / "40.png", scene(40))
    write_image(tmp_path / "c" / "40.png", scene(40, (20, 20)))
    command = ["--pair-by", "stem", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    assert tool().main([*command, "--output", str(tmp_path / "out"), "--keep-twins"]) == 0
    lines = {
        line.split(":")[1].split("×")[0].strip() + line.split("×")[1].split(":")[0]: line
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("left out")
    }
    assert set(lines) == {
        "7 rainy image without a clean partner",
        "1 clean image without a rainy partner",
        "1 differs in size from its clean partner",
        "1 all its rainy partners are left out",
    }
    assert lines["7 rainy image without a clean partner"].endswith("and 2 more")


def test_unreadable_images(tmp_path, capsys):
    for seed in range(6):
        write_pair(tmp_path / "r" / f"{seed}.png", tmp_path / "c" / f"{seed}.png", seed)
    (tmp_path / "r" / "1.png").write_bytes(b"no image")
    (tmp_path / "c" / "2.png").write_bytes(b"")
    command = ["--pair-by", "stem", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c"), "--keep-twins"]
    assert tool().main([*command, "--output", str(tmp_path / "strict"), "--strict"]) == 2
    assert not (tmp_path / "strict" / "rainy").exists()
    assert tool().main([*command, "--output", str(tmp_path / "out")]) == 3
    text = capsys.readouterr().out
    assert "unreadable: 1 × cannot be decoded" in text
    assert "unreadable: 1 × empty" in text
    assert len(records(tmp_path / "out")) == 8


def test_near_duplicates_are_dropped_on_demand(tmp_path):
    for seed in range(3):
        for drop in range(4):
            write_image(tmp_path / "r" / f"{seed}_{drop}.png", rain(scene(seed, (160, 220)), drop))
    write_image(tmp_path / "c" / "c.png", scene(9))
    command = ["--layout", "two-folders", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    assert tool().main([*command, "--output", str(tmp_path / "all")]) == 0
    assert len(names(tmp_path / "all", "rainy")) == 12
    assert tool().main([*command, "--output", str(tmp_path / "few"), "--near-duplicates", "16"]) == 0
    assert names(tmp_path / "few", "rainy") == ["0_0.png", "1_0.png", "2_0.png"]


@pytest.mark.parametrize(("ending", "codec"), [(".avi", "MJPG"), (".MP4", "mp4v")])
def test_videos_become_their_sharpest_frames(tmp_path, ending, codec):
    video = tmp_path / "r" / f"walk{ending}"
    video.parent.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*codec), 10, (220, 160))
    if not writer.isOpened():
        pytest.skip(f"OpenCV cannot write {codec} here")
    for number in range(23):
        frame = scene(number // 12, (160, 220))  # two views
        frame = rain(frame, number) if number in (3, 8, 14, 21) else cv2.GaussianBlur(frame, (0, 0), 4)
        writer.write(frame)
    writer.release()
    write_image(tmp_path / "c" / "c.png", scene(9))
    command = [
        "--layout",
        "two-folders",
        "--rainy",
        str(tmp_path / "r"),
        "--clean",
        str(tmp_path / "c"),
        "--every",
        "6",
    ]
    assert tool().main([*command, "--output", str(tmp_path / "all"), "--near-duplicates", "0"]) == 0
    assert names(tmp_path / "all", "rainy") == [f"walk_{number:06}.png" for number in (3, 8, 14, 21)]
    assert tool().main([*command, "--output", str(tmp_path / "few"), "--near-duplicates", "16"]) == 0
    assert names(tmp_path / "few", "rainy") == ["walk_000003.png", "walk_000014.png"]
    line = records(tmp_path / "few")[-1]
    assert line["source"].endswith("#frame=14")
    assert line["scene"] == "rainy/walk"


def test_the_perceptual_hash_against_a_slow_count():
    hashes = [dhash(scene(seed).astype(np.float32) / 255) for seed in range(30)]
    apart = [bin(hashes[0] ^ other).count("1") for other in hashes]
    assert list(distances(signs(hashes[:1]), signs(hashes))[0]) == apart
    assert min(apart[1:]) > 20
    assert dhash(np.full((30, 40, 3), 0.3, np.float32)) is None


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_perceptual_hash_is_that_of_the_image_as_floats(monkeypatch, dtype):
    image = np.random.default_rng(0).random((50, 70, 3))
    image = image.astype(dtype) if dtype == np.float32 else (image * np.iinfo(dtype).max).astype(dtype)
    monkeypatch.setattr(hashing, "_STRIP", 210)
    assert dhash(image) == dhash(to_float(image))
    np.testing.assert_array_equal(hashing._grey(image), cv2.cvtColor(to_float(image), cv2.COLOR_RGB2GRAY))


def test_a_large_image_never_stands_in_memory_as_floats():
    image = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), dtype=np.uint8)
    data, source = encode_png(image), Source("/s/x.png", "x.png")
    tracemalloc.start()
    try:
        facts = facts_of(data, source, 0)
        assert tracemalloc.get_traced_memory()[1] < 3 * image.nbytes
    finally:
        tracemalloc.stop()
    assert facts.brightness == pytest.approx((image / 255).mean(), abs=1e-12)


def test_names_are_safe_and_one_to_one():
    given = [
        "a/x.png",
        "b/x.png",
        "b/X.PNG",
        "a__x.png",
        "c/y.JPEG",
        "line\nbreak.png",
        "c/..png",
        "%0A.png",
        "l" * 250,
    ]
    given += ["\udcff.png", "雨 2.png", "con:trol.png", "c/y.tif"]
    sources = [Source(f"/s/{name}", name) for name in given]
    result = output_names(sources)
    assert len({name.casefold().rsplit(".", 1)[0] for name in result.values()}) == len(given)
    for name in result.values():
        assert name.isprintable()
        assert not set(name) & set('/\\:"')
        assert not name.startswith(".")
        assert len(name.encode()) < 255
    assert result[sources[10]] == "雨 2.png"
    assert output_names(sources[::-1]) == result


def test_a_newline_in_a_name_stays_on_one_manifest_line(tmp_path):
    for seed in range(4):
        write_image(tmp_path / "r" / f"{seed}\nx.png", scene(seed))
        write_image(tmp_path / "c" / f"c{seed}.png", scene(seed + 10))
    command = ["--layout", "two-folders", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    assert tool().main([*command, "--output", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "manifest.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert json.loads(lines[4])["path"] == "rainy/0%0Ax.png"


def test_a_single_scene_cannot_be_trained_on_without_twins():
    collection, facts = made_up(scenes=1)
    with pytest.raises(InputError, match="--keep-twins"):
        make_plan(collection, facts, settings=Settings(val_fraction=0))
