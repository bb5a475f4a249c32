import numpy as np
import pytest
from studies.all_filters import all_filters

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.classical_filters import FILTERS, best_filter, opening, remove_streaks
from nlcl_plugin.metrics.quality import psnr
from nlcl_plugin.rain.renderer import blend, render_rain


def naive_opening(image, kernel):
    """Minimum, then maximum, over the kernel's places; places outside of the image do not count."""
    for choose in (np.min, np.max):
        out, (height, width) = image.copy(), image.shape[:2]
        for y, x in np.ndindex(height, width):
            places = np.argwhere(kernel) - np.array(kernel.shape) // 2 + np.array([y, x])
            inside = places[((places >= 0) & (places < (height, width))).all(1)]
            out[y, x] = choose(image[tuple(inside.T)], axis=0)
        image = out
    return image


def test_filters_keep_shape_type_range_and_input_and_darken_what_they_should():
    image, flat = np.random.default_rng(0).random((17, 23, 3), np.float32), np.full((16, 18, 3), 0.4, np.float32)
    before = image.copy()
    for name, function in all_filters().items():
        result = function(image[:, ::-1, ::-1])
        assert (result.shape, result.dtype) == (image.shape, np.float32), name
        assert 0 <= result.min() <= result.max() <= 1, name
        np.testing.assert_array_equal(image, before, name)
        if "minus" not in name:
            np.testing.assert_allclose(function(flat), flat, atol=1e-5, err_msg=name)
        if name.startswith(("opening", "streaks", "minus")):
            assert (result <= image[:, ::-1, ::-1]).all(), name


def test_opening_and_streaks_equal_the_naive_loop():
    image = np.random.default_rng(0).random((8, 11, 3), np.float32)
    for width in (3, 5, 9):
        opened = naive_opening(image, np.ones((1, width)))
        np.testing.assert_array_equal(opening(image, width), opened)
        np.testing.assert_allclose(opening(image, width, minus=0.1), np.maximum(opened - 0.1, 0), atol=1e-6)
    lines = [np.eye(3), np.fliplr(np.eye(3)), np.outer(np.ones(3), [0, 1, 0])]
    hat = image - naive_opening(image, np.ones((1, 5)))
    rain = np.max([naive_opening(hat, line) for line in lines], axis=0)
    np.testing.assert_allclose(remove_streaks(image, 5, length=3), image - rain, atol=1e-6)


def test_the_best_filter_is_the_best_and_beats_rendered_rain_on_smooth_ground():
    ground = np.linspace(0.2, 0.6, 64)[None, :, None] * np.linspace(0.7, 1.0, 64)[:, None, None]
    clean = (ground * [1.0, 0.8, 0.6]).astype(np.float32)
    pairs = [(blend(clean, render_rain((64, 64), np.random.default_rng(seed))), clean) for seed in range(3)]
    scores = {name: np.mean([psnr(to_uint8(f(o)), to_uint8(b)) for o, b in pairs]) for name, f in FILTERS.items()}
    name, value = best_filter(iter(pairs))
    assert value == pytest.approx(max(scores.values())) == pytest.approx(scores[name])
    assert value > scores["none"] + 5
    assert best_filter([(clean, clean)]) == ("none", 100.0)
    with pytest.raises(InputError, match="no pairs"):
        best_filter([])
