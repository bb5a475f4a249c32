import hashlib
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import pytest

from nlcl_plugin.data import demo_data
from nlcl_plugin.data.demo_data import (
    CROP_SIDE,
    PHOTOGRAPHS,
    TILE_SIDE,
    make_demo_data,
    plan_tiles,
    plan_validation,
)
from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.renderer import blend, render_rain

pytest.importorskip("skimage")

FOLDERS = ("rainy", "clean", "val_rainy", "val_clean", "val_screen_rainy")


@pytest.fixture
def few(monkeypatch):
    """Makes few tiles, to be quick."""
    monkeypatch.setattr(demo_data, "TILES", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The real data, made once."""
    root = tmp_path_factory.mktemp("demo") / "made"
    make_demo_data(root)
    return root


def _digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def _start(root, tiles):
    """A real process that makes the data. Bare parent packages spare it the import of torch and BasicSR: seconds."""
    package = Path(demo_data.__file__).parents[1]
    code = (
        "import sys, types\n"
        f"for name, path in (('nlcl_plugin', {str(package)!r}), ('nlcl_plugin.data', {str(package / 'data')!r})):\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    sys.modules[name].__path__ = [path]\n"
        "from nlcl_plugin.data import demo_data\n"
        f"demo_data.TILES = {tiles}\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        f"demo_data.make_demo_data({str(root)!r})\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _go(*processes):
    for process in processes:
        while "ready" not in (line := process.stdout.readline()):
            assert line, "the process ended before it was ready"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def _read(path):
    return cv2.imread(str(path))[..., ::-1].astype(np.float32) / 255


def test_folders_hold_the_promised_images(made):
    assert sorted(path.name for path in made.iterdir()) == sorted([*FOLDERS, "LICENSES.txt", "manifest.json"])
    counts = {folder: len(list((made / folder).iterdir())) for folder in FOLDERS}
    assert counts == {"rainy": 300, "clean": 300, "val_rainy": 12, "val_clean": 12, "val_screen_rainy": 12}
    assert (made / "rainy" / "0001.png").exists()
    assert (made / "rainy" / "0300.png").exists()
    names = [sorted(path.name for path in (made / folder).iterdir()) for folder in FOLDERS[2:]]
    assert names[0] == names[1] == names[2]
    for folder, side in (("rainy", TILE_SIDE), ("clean", TILE_SIDE), ("val_clean", CROP_SIDE)):
        assert _read(made / folder / "0002.png").shape == (side, side, 3)
    manifest = json.loads((made / "manifest.json").read_text())
    assert (manifest["seed"], manifest["recipe"], manifest["counts"]) == (0, demo_data.RECIPE, counts)


def test_only_rain_was_added_to_the_validation_images(made):
    for index, crop in enumerate(plan_validation()):
        name = f"{index + 1:04d}.png"
        clean = _read(made / "val_clean" / name)
        rain = render_rain((CROP_SIDE, CROP_SIDE), np.random.default_rng(crop.stream))
        for folder, mode in (("val_rainy", "additive"), ("val_screen_rainy", "screen")):
            expected = np.round(blend(clean, rain, mode) * 255)
            np.testing.assert_allclose(_read(made / folder / name) * 255, expected, atol=1.001)


def test_rain_is_visible_but_not_everywhere(made):
    differences = [
        _read(path) - _read(made / "val_clean" / path.name) for path in sorted((made / "val_rainy").iterdir())
    ]
    means = [float(difference.mean()) for difference in differences]
    assert 0.02 < np.mean(means) < 0.06
    assert np.mean([(np.abs(difference) < 0.02).mean() for difference in differences]) > 0.5
    assert np.std(means) > 0.005


def test_every_photograph_has_a_licence_in_the_file_and_in_the_documentation(made):
    text = (made / "LICENSES.txt").read_text()
    for photograph in PHOTOGRAPHS:
        row = f"| {photograph.name} | "
        assert row in demo_data.__doc__
        documented = demo_data.__doc__.split(row)[1].split("\n")[0]
        assert f"| {photograph.licence} |" in documented
        assert f"licence: {photograph.licence}" in text.split(f"{photograph.name}\n")[1].split("used in")[0]
        assert photograph.licence.startswith(("CC0", "public domain"))


def test_no_photograph_serves_training_and_validation():
    rainy, clean = plan_tiles()
    training = {tile.photograph.file for tile in rainy + clean}
    validation = {crop.photograph.file for crop in plan_validation()}
    assert len(training) == 3
    assert len(validation) == 2
    assert not training & validation


@pytest.mark.parametrize("seed", [0, 1])
def test_rainy_and_clean_tiles_share_no_pixel(seed):
    covered = {}
    for purpose, tiles in zip(("rainy", "clean"), plan_tiles(seed), strict=True):
        for tile in tiles:
            photograph = tile.photograph
            assert tile.top >= 0
            assert tile.left >= 0
            assert tile.top + tile.side <= photograph.height
            assert tile.left + tile.side <= photograph.width
            mask = covered.setdefault((photograph.name, purpose), np.zeros((photograph.height, photograph.width), bool))
            mask[tile.top : tile.top + tile.side, tile.left : tile.left + tile.side] = True
    names = {name for name, _ in covered}
    assert set(covered) == set(product(names, ("rainy", "clean")))
    for name in names:
        assert not (covered[name, "rainy"] & covered[name, "clean"]).any()


def test_rainy_and_clean_tiles_come_from_opposite_diagonal_quarters():
    diagonals = []
    for tiles in plan_tiles():
        quarters = {}
        for tile in tiles:
            middle = (tile.photograph.height // 2, tile.photograph.width // 2)
            below, right = tile.top >= middle[0], tile.left >= middle[1]
            assert below or tile.top + tile.side <= middle[0]
            assert right or tile.left + tile.side <= middle[1]
            quarters.setdefault(tile.photograph.name, set()).add((below, right))
        assert all(len(pair) == 2 and len({b == r for b, r in pair}) == 1 for pair in quarters.values())
        diagonals.append({name: next(b == r for b, r in pair) for name, pair in quarters.items()})
    assert all(diagonals[0][name] != diagonals[1][name] for name in diagonals[0])
    assert len(set(diagonals[0].values())) == 2  # it alternates by photograph


def test_tiles_are_drawn_from_the_documented_ranges():
    tiles = [tile for plan in plan_tiles() for tile in plan]
    assert {tile.side for tile in tiles} <= set(range(128, 231))
    assert min(tile.gamma for tile in tiles) < 0.65
    assert max(tile.gamma for tile in tiles) > 1.45
    assert min(tile.gain for tile in tiles) < 0.72
    assert len({tile.channels for tile in tiles}) == 6
    assert {tile.flip for tile in tiles} == {False, True}
    assert len({tile.stream for tile in tiles}) == len(tiles)


def test_validation_crops_are_disjoint():
    crops = plan_validation()
    for index, first in enumerate(crops):
        assert first.top + CROP_SIDE <= first.photograph.height
        assert first.left + CROP_SIDE <= first.photograph.width
        for second in crops[:index]:
            apart = abs(first.top - second.top) >= CROP_SIDE or abs(first.left - second.left) >= CROP_SIDE
            assert apart or first.photograph != second.photograph


def test_same_seed_same_bytes_and_another_seed_others(tmp_path, few):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_demo_data(tmp_path / name, seed=seed)
    first, again, other = (_digests(tmp_path / name) for name in "abc")
    assert first == again
    assert sorted(first) == sorted(other)
    same = [name for name in first if first[name] == other[name]]
    assert all(name.startswith("val_clean") or name == "LICENSES.txt" for name in same)


def test_number_of_tiles_does_not_change_a_tile(tmp_path, few, made):
    make_demo_data(tmp_path / "few")
    assert (tmp_path / "few/rainy/0008.png").read_bytes() == (made / "rainy/0008.png").read_bytes()


def test_complete_data_is_left_alone(tmp_path, few, monkeypatch):
    make_demo_data(tmp_path / "demo")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")}
    monkeypatch.setattr(demo_data, "_write_all", lambda *_: pytest.fail("made again"))
    make_demo_data(tmp_path / "demo")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*")} == before


def test_an_empty_folder_is_filled_and_missing_parents_are_made(tmp_path, few):
    (tmp_path / "empty").mkdir()
    make_demo_data(tmp_path / "empty")
    make_demo_data(str(tmp_path / "new" / "deep" / "demo"))
    assert _digests(tmp_path / "empty") == _digests(tmp_path / "new/deep/demo")


def test_folders_of_others_are_refused_and_not_touched(tmp_path, few):
    root = tmp_path / "mine"
    root.mkdir()
    (root / "holiday.png").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"holds no demo data.*delete it or choose another folder"):
        make_demo_data(root)
    (root / "manifest.json").write_text('{"made_by": "somebody"}')
    with pytest.raises(InputError, match="made by something else"):
        make_demo_data(root)
    (root / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        make_demo_data(root)
    assert sorted(path.name for path in root.iterdir()) == ["holiday.png", "manifest.json"]
    with pytest.raises(InputError, match="is a file"):
        make_demo_data(root / "holiday.png")
    assert list(tmp_path.iterdir()) == [root]


def test_data_of_another_seed_or_recipe_or_with_gaps_is_refused(tmp_path, few, monkeypatch):
    root = tmp_path / "demo"
    make_demo_data(root)
    with pytest.raises(InputError, match="with seed 0, expected 1; delete it or choose another folder"):
        make_demo_data(root, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(demo_data, "RECIPE", demo_data.RECIPE + 1)
        with pytest.raises(InputError, match="with recipe"):
            make_demo_data(root)
    (root / "clean" / "0003.png").unlink()
    with pytest.raises(InputError, match="holds 7 images, expected 8: incomplete; delete"):
        make_demo_data(root)


def test_negative_seed_is_refused(tmp_path):
    with pytest.raises(InputError, match="seed of the demo data is -1"):
        make_demo_data(tmp_path / "demo", seed=-1)


def test_a_failure_leaves_nothing_behind(tmp_path, few, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo_data, "_write_folder", full)
    with pytest.raises(InputError, match="No space left on device"):
        make_demo_data(tmp_path / "demo")
    monkeypatch.setattr(demo_data, "_write_folder", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_demo_data(tmp_path / "demo")
    assert not list(tmp_path.iterdir())


def test_a_missing_photograph_is_named(tmp_path, few, monkeypatch):
    missing = demo_data.DemoPhotograph("x", "x.png", 512, 512, "", "")
    monkeypatch.setattr(demo_data, "PHOTOGRAPHS", (*PHOTOGRAPHS, missing))
    with pytest.raises(InputError, match=r"x\.png is missing; reinstall scikit-image"):
        make_demo_data(tmp_path / "demo")


def test_a_second_maker_that_comes_late_discards_its_own(tmp_path, few, monkeypatch):
    write_all = demo_data._write_all

    def overtaken(work, seed):
        write_all(work, seed)
        monkeypatch.setattr(demo_data, "_write_all", write_all)
        make_demo_data(tmp_path / "demo", seed=seed)
        (tmp_path / "demo" / "mark").touch()

    monkeypatch.setattr(demo_data, "_write_all", overtaken)
    make_demo_data(tmp_path / "demo")
    assert (tmp_path / "demo" / "mark").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.slow
def test_concurrent_processes_and_a_killed_one(tmp_path, monkeypatch):
    """One process is killed on the way; then two start at once and both succeed, with the same bytes as ever."""
    root = tmp_path / "demo"
    victim, first, second = _start(root, 100_000), _start(root, 40), _start(root, 40)
    try:
        _go(victim)
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".demo.making-*/rainy/*.png")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        victim.kill()
        victim.wait(timeout=60)
        assert not root.exists()
        leftovers = list(tmp_path.iterdir())
        assert len(leftovers) == 1

        _go(first, second)
        assert first.wait(timeout=60) == 0
        assert second.wait(timeout=60) == 0
    finally:
        for process in (victim, first, second):
            process.kill()
            process.communicate()
    assert sorted(tmp_path.iterdir()) == sorted([root, *leftovers])
    made = _digests(root)
    monkeypatch.setattr(demo_data, "TILES", 40)
    make_demo_data(tmp_path / "alone")
    assert made == _digests(tmp_path / "alone")
