import pytest

from nlcl_plugin.models.validation import _output_name


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
    ],
)
def test_outputs_keep_their_place_below_the_root_and_never_leave_it(path, root, expected):
    assert _output_name(path, root, set()) == expected


def test_images_that_differ_in_their_suffix_alone_do_not_overwrite_each_other():
    taken = set()
    names = [_output_name(f"rainy/{name}", "rainy", taken) for name in ("a.jpg", "a.png", "b.png")]
    assert names == ["a", "a.png", "b"]
