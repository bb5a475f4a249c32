import hashlib
import json
from itertools import combinations

import numpy as np
import pytest

from nlcl_plugin.data import demo_data
from nlcl_plugin.data import read_image as read
from nlcl_plugin.data.demo_data import CROP_SIDE, PHOTOGRAPHS, TILE_SIDE, make_demo_data, plan_tiles
from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.renderer import blend, render_rain

pytest.importorskip("skimage")

FOLDERS = ("rainy", "clean", "val_rainy", "val_clean", "val_screen_rainy")


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Makes few tiles, to be quick."""
    monkeypatch.setattr(demo_data, "TILES", 8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo") / "made"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_data, "TILES", 12)
        make_demo_data(root)
    return root


def digests(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_folders_contain_the_promised_images(made):
    assert sorted(path.name for path in made.iterdir()) == sorted([*FOLDERS, "LICENSES.txt", "manifest.json"])
    names = {folder: sorted(path.name for path in (made / folder).iterdir()) for folder in FOLDERS}
    assert names == {folder: [f"{number:04d}.png" for number in range(1, 13)] for folder in FOLDERS}
    for folder, side in (("rainy", TILE_SIDE), ("clean", TILE_SIDE), ("val_clean", CROP_SIDE)):
        assert read(made / folder / "0002.png").shape == (side, side, 3)
    manifest = json.loads((made / "manifest.json").read_text())
    assert (manifest["seed"], manifest["recipe"]) == (0, demo_data.RECIPE)
    assert manifest["counts"] == dict.fromkeys(FOLDERS, 12)


def test_only_rain_was_added_to_the_validation_images_and_not_everywhere(made):
    for index in range(12):
        name = f"{index + 1:04d}.png"
        clean = read(made / "val_clean" / name)
        rain = render_rain((CROP_SIDE, CROP_SIDE), np.random.default_rng((0, 2, index)))
        for folder, mode in (("val_rainy", "additive"), ("val_screen_rainy", "screen")):
            expected = np.round(blend(clean, rain, mode) * 255)
            np.testing.assert_allclose(read(made / folder / name) * 255, expected, atol=1.001)
        assert (np.abs(read(made / "val_rainy" / name) - clean) < 0.02).mean() > 0.1


def test_every_photograph_has_a_free_licence_which_the_file_names(made):
    text = (made / "LICENSES.txt").read_text()
    for photograph in PHOTOGRAPHS:
        name = photograph.file.split(".")[0]
        assert f"licence: {photograph.licence}" in text.split(f"{name}\n")[1].split("used in")[0]
        assert photograph.licence.startswith(("CC0", "public domain"))


@pytest.mark.parametrize("seed", [0, 1])
def test_rainy_and_clean_tiles_share_no_pixel_as_they_come_from_opposite_diagonals(seed, monkeypatch):
    monkeypatch.setattr(demo_data, "TILES", 300)
    diagonals = []
    for tiles in plan_tiles(seed):
        quarters = {}
        for tile in tiles:
            photograph = tile.photograph
            middle = (photograph.height // 2, photograph.width // 2)
            below, right = tile.top >= middle[0], tile.left >= middle[1]
            assert 0 <= tile.top <= (photograph.height if below else middle[0]) - tile.side
            assert 0 <= tile.left <= (photograph.width if right else middle[1]) - tile.side
            quarters.setdefault(photograph.file, set()).add((below, right))
        assert all(len(pair) == 2 and len({b == r for b, r in pair}) == 1 for pair in quarters.values())
        diagonals.append({name: next(b == r for b, r in pair) for name, pair in quarters.items()})
    assert all(diagonals[0][name] != diagonals[1][name] for name in diagonals[0])
    assert len(set(diagonals[0].values())) == 2  # it alternates by photograph


def test_validation_crops_are_disjoint_and_of_other_photographs_than_training():
    photographs = [photograph for photograph in PHOTOGRAPHS if photograph.crops]
    assert len(photographs) == 2
    assert not set(photographs) & {tile.photograph for plan in plan_tiles() for tile in plan}
    for photograph in photographs:
        for top, left in photograph.crops:
            assert top + CROP_SIDE <= photograph.height
            assert left + CROP_SIDE <= photograph.width
        for one, other in combinations(photograph.crops, 2):
            assert abs(one[0] - other[0]) >= CROP_SIDE or abs(one[1] - other[1]) >= CROP_SIDE


def test_same_seed_same_bytes_another_seed_others_and_the_number_changes_no_tile(tmp_path, made):
    (tmp_path / "a").mkdir()  # an empty folder is filled, and missing parents are made
    for name, seed in (("a", 0), ("b/deep", 0), ("c", 1)):
        make_demo_data(str(tmp_path / name), seed=seed)
    first, again, other = (digests(tmp_path / name) for name in ("a", "b/deep", "c"))
    assert first == again
    assert sorted(first) == sorted(other)
    same = {name.split("/")[0] for name in first if first[name] == other[name]}
    assert same <= {"val_clean", "LICENSES.txt"}
    assert first["rainy/0008.png"] == digests(made)["rainy/0008.png"]


def test_complete_data_is_left_alone_and_all_else_refused_untouched(tmp_path, monkeypatch):
    root = tmp_path / "demo"
    make_demo_data(root)
    monkeypatch.setattr(demo_data, "_write_all", lambda *_: pytest.fail("made again"))
    make_demo_data(root)
    with pytest.raises(InputError, match="with seed 0, expected 1; delete it or choose another folder"):
        make_demo_data(root, seed=1)
    (root / "clean" / "0003.png").unlink()
    with pytest.raises(InputError, match=r"with counts .*'clean': 7.*; delete it"):
        make_demo_data(root)
    (root / "manifest.json").unlink()
    before = digests(root)
    with pytest.raises(InputError, match=r"contains no demo data.*delete it or choose another folder"):
        make_demo_data(root)
    assert digests(root) == before
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OSError(28, "No space left on device"), InputError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, error, raised):
    monkeypatch.setattr(demo_data, "_write_folder", lambda *_: (_ for _ in ()).throw(error))
    with pytest.raises(raised):
        make_demo_data(tmp_path / "demo")
    assert not list(tmp_path.iterdir())
