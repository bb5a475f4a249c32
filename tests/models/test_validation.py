import numpy as np
import pytest

from nlcl_plugin.models.validation import ValidationMixin, _output_name


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("rainy/a.png", "rainy", "a"),
        ("rainy/night/a.b.JPG", "rainy/", "night/a.b"),
        ("/data/rainy/a.png", "/data/rainy", "a"),
        ("/elsewhere/a.png", "/data/rainy", "a"),
        ("/data/rainy2/a.png", "/data/rainy", "a"),
        ("../up/a.png", "rainy", "a"),
        ("key", None, "key"),
        ("..", None, "_"),
        ("rainy/../..", "rainy", "_"),
        ("a\0b", None, "a_b"),
    ],
)
def test_outputs_keep_their_place_below_the_root_and_never_leave_it(path, root, expected):
    assert _output_name(path, root, set()) == expected


def test_images_that_differ_in_their_suffix_alone_do_not_overwrite_each_other():
    taken = set()
    names = [_output_name(f"rainy/{name}", "rainy", taken) for name in ("a.jpg", "a.png", "b.png")]
    assert names == ["a", "a.png", "b"]


def test_long_names_are_cut_and_stay_different():
    names = {_output_name(f"rainy/{'雨' * 80}{number}.png", "rainy", set()) for number in range(3)}
    assert len(names) == 3
    assert all(len(name.encode()) <= 200 for name in names)


@pytest.mark.parametrize("is_train", [False, True])
def test_pictures_stay_in_their_folder_whatever_is_put_behind_their_names(tmp_path, is_train):
    model = ValidationMixin()
    folder = tmp_path / "results" / "visualization"
    model.opt = {"path": {"visualization": str(folder)}, "is_train": is_train, "val": {"suffix": "/../../../x"}}
    picture = np.zeros((4, 5, 3), np.uint8)
    image = _output_name("..", None, set())
    model._save_pictures(dict.fromkeys(("lq", "result", "rain"), picture), "pairs", image, 7)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert all(path.is_relative_to(folder) for path in files)
