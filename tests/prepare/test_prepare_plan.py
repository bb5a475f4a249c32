"""What is sifted out, how scenes are split, and what is found to leak."""

import itertools

import cv2
import numpy as np
import pytest
from prepare_helpers import main, names, rain, records, scene, write_image, write_pair

from nlcl_plugin.data.image_io import to_float
from nlcl_plugin.prepare import Options, make_plan, similarity
from nlcl_plugin.prepare.model import Collection, ImageFacts, LabelledImage, OutputFile, SourceImage
from nlcl_plugin.prepare.plan import output_names
from nlcl_plugin.prepare.similarity import BITS, dhash, find_alike, find_near_duplicates


def made_up(scenes=20, per_scene=3):
    """A collection of pairs without files, and facts of which no two are alike."""
    images, facts = [], {}
    numbers = itertools.count()

    def add(name):
        number = next(numbers)
        source = SourceImage(f"/s/{name}", name)
        bits = int.from_bytes(np.random.default_rng(number).bytes(16), "big")
        facts[source] = ImageFacts(1, f"{number:064x}", 8, 8, bits, 0)
        return source

    for index in range(scenes):
        clean = add(f"gt/{index}.png")
        images.append(LabelledImage(clean, "clean", f"scene{index}"))
        for k in range(per_scene):
            images.append(LabelledImage(add(f"in/{index}_{k}.png"), "rainy", f"scene{index}", None, clean))
    return Collection(images), facts


@pytest.mark.parametrize(("seed", "fraction"), [(0, 0.05), (1, 0.3), (2, 0.5)])
def test_splits_and_halves_never_share_a_scene(seed, fraction):
    plan = make_plan(*made_up(), options=Options(val_fraction=fraction, seed=seed))
    scenes = {
        key: {file.scene for file in plan.files if (file.split, file.role) == key}
        for key in itertools.product(("train", "val"), ("rainy", "clean"))
    }
    assert scenes["val", "rainy"] == scenes["val", "clean"]
    assert len(scenes["val", "rainy"]) == round(20 * fraction)
    parts = [scenes["val", "rainy"], scenes["train", "rainy"], scenes["train", "clean"]]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    # Nothing is lost silently.
    assert len(plan.drops) + len({file.source for file in plan.files}) == 80
    assert plan == make_plan(*made_up(), options=Options(val_fraction=fraction, seed=seed))
    assert plan != make_plan(*made_up(), options=Options(val_fraction=fraction, seed=seed + 1))


def test_scenes_that_share_a_file_count_as_one():
    collection, facts = made_up()
    sources = list(facts)
    facts[sources[0]] = facts[sources[4]]  # the clean images of scenes 0 and 1
    for seed in range(8):
        plan = make_plan(collection, facts, options=Options(val_fraction=0.5, seed=seed))
        splits = {file.split for file in plan.files if file.source.name.split("/")[1][:2] in ("0_", "1_", "0.", "1.")}
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
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "val3.png" in error
    assert "train3.png" in error
    assert "val6" not in error
    assert not (tmp_path / "out").exists()
    assert main([*command, "--allow-leakage"]) == 0
    assert "1 validation image also occurs in training (identical or nearly so): " in capsys.readouterr().out


def test_unreadable_images(tmp_path, capsys):
    for seed in range(6):
        write_pair(tmp_path / "r" / f"{seed}.png", tmp_path / "c" / f"{seed}.png", seed)
    (tmp_path / "r" / "1.png").write_bytes(b"no image")
    (tmp_path / "c" / "2.png").write_bytes(b"")
    command = ["--pair-by", "stem", "--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c"), "--keep-twins"]
    assert main([*command, "--output", str(tmp_path / "strict"), "--strict"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'r' / '1.png'}: cannot be decoded")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "strict" / "rainy").exists()
    assert main([*command, "--output", str(tmp_path / "out")]) == 3
    text = capsys.readouterr().out
    assert "unreadable: 1 × cannot be decoded" in text
    assert "unreadable: 1 × empty" in text
    assert len(records(tmp_path / "out")) == 8


def test_videos_become_their_sharpest_frames(tmp_path):
    video = tmp_path / "r" / "walk.avi"
    video.parent.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (220, 160))
    for number in range(23):
        frame = scene(number // 12, (160, 220))  # two views
        frame = rain(frame, number) if number in (3, 8, 14, 21) else cv2.GaussianBlur(frame, (0, 0), 4)
        writer.write(frame)
    writer.release()
    write_image(tmp_path / "c" / "c.png", scene(9))
    folders = ["--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    command = ["--layout", "two-folders", *folders, "--every", "6"]
    assert main([*command, "--output", str(tmp_path / "all"), "--near-duplicates", "0"]) == 0
    assert names(tmp_path / "all", "rainy") == [f"walk_{number:06}.png" for number in (3, 8, 14, 21)]
    assert main([*command, "--output", str(tmp_path / "few"), "--near-duplicates", "16"]) == 0
    assert names(tmp_path / "few", "rainy") == ["walk_000003.png", "walk_000014.png"]
    line = records(tmp_path / "few")[-1]
    assert line["source"].endswith("#frame=14")
    assert line["scene"] == "rainy/walk"


def test_unpaired_photographs_and_validation_pairs_are_prepared_together(tmp_path, capsys):
    for seed, name in enumerate(("r/a.png", "r/b.png", "c/a.png", "c/d.png")):
        write_image(tmp_path / name, scene(seed))
    for seed in (10, 11):
        write_pair(tmp_path / f"vr/{seed}.png", tmp_path / f"vc/{seed}.png", seed)
    write_image(tmp_path / "vr/alone.png", scene(12))
    folders = {"--rainy": "r", "--clean": "c", "--val-rainy": "vr", "--val-clean": "vc"}
    command = ["--layout", "two-folders", "--output", str(tmp_path / "out")]
    command += [word for flag, name in folders.items() for word in (flag, str(tmp_path / name))]
    assert main(command) == 0
    assert "alone.png" in capsys.readouterr().out
    found = {folder: names(tmp_path / "out", folder) for folder in ("rainy", "clean", "val_rainy", "val_clean")}
    assert found == {"rainy": ["a.png", "b.png"], "clean": ["a.png", "d.png"],
                     "val_rainy": ["10.png", "11.png"], "val_clean": ["10.png", "11.png"]}  # fmt: skip
    write_image(tmp_path / "r/leak.png", scene(10))
    assert main([*command[:-2], "--output", str(tmp_path / "other")]) == 2
    assert "give both --val-rainy DIR and --val-clean DIR" in capsys.readouterr().err
    assert main([*command, "--output", str(tmp_path / "other")]) == 2
    assert "leak.png" in capsys.readouterr().err


def test_the_perceptual_hash():
    images = [scene(seed, (160, 220)) for seed in range(30)]
    first = dhash(images[0])
    assert dhash(images[0].astype(np.uint16) * 257) == dhash(to_float(images[0])) == first
    assert min(bin(first ^ dhash(image)).count("1") for image in images[1:]) > 20
    assert dhash(np.full((30, 40, 3), 80, np.uint8)) is None


def hashed(count, clusters):
    """Facts of images in clusters, of which some have no hash."""
    rng = np.random.default_rng(0)
    centres = [int.from_bytes(rng.bytes(16), "big") for _ in range(clusters)]
    facts = {}
    for number in range(count):
        changed = sum(1 << int(bit) for bit in rng.choice(BITS, rng.integers(0, 12), replace=False))
        value = None if number % 17 == 3 else centres[int(rng.integers(clusters))] ^ changed
        facts[SourceImage(f"/{number}.png", f"{number}.png")] = ImageFacts(1, f"{number}", 8, 8, value, 0)
    return facts


@pytest.mark.parametrize("bits", [0, 4, 9, 128])
def test_comparisons_against_a_slow_reference(monkeypatch, bits):
    monkeypatch.setattr(similarity, "_CELLS", 5000)  # many blocks
    facts = hashed(300, 60)

    def nearest(one, others):
        known = [other for other in others if None not in (facts[one].dhash, facts[other].dhash)]
        apart = [bin(facts[one].dhash ^ facts[other].dhash).count("1") for other in known]
        return known[apart.index(min(apart))] if apart and min(apart) <= bits else None

    duplicates, kept = [], []
    for source in facts:
        (duplicates if nearest(source, kept) else kept).append(source)
    images = [LabelledImage(source, "rainy", "") for source in facts]
    assert find_near_duplicates(images, facts, bits) == duplicates
    files = [OutputFile(source.name, source, fact, "", "train", "rainy", None) for source, fact in facts.items()]
    ones, others = files[::3], files[1::3]
    expected = [(one.source, nearest(one.source, [other.source for other in others])) for one in ones]
    found = [(one.source, other.source) for one, other in find_alike(ones, others, bits)]
    assert found == [pair for pair in expected if pair[1]]
    assert find_alike(ones, [], bits) == find_alike([], others, bits) == []


def test_names_are_safe_one_to_one_and_depend_on_names_only():
    given = ["a/x.png", "b/x.png", "b/X.PNG", "a__x.png", "a/x.jpg", "c/y.JPEG", "y\u0301.png", "ý.png", "c/y.tif"]
    given += ["line\nbreak.png", "c/..png", "%0A.png", "l" * 250, "\udcff.png", "con:trol.png", "雨 2.png"]
    at = [[SourceImage(f"{root}/{name}", name) for name in given] for root in ("/m", "/z/deep", "")]
    results = [output_names(sources) for sources in (*at, at[0][::-1])]
    by_name = [{source.name: name for source, name in result.items()} for result in results]
    assert all(names == by_name[0] for names in by_name)
    assert len({name.casefold().rsplit(".", 1)[0] for name in results[0].values()}) == len(given)
    for name in results[0].values():
        assert name.isprintable()
        assert not set(name) & set('/\\:"')
        assert len(name.encode()) < 255
    assert results[0][at[0][-1]] == "雨 2.png"
