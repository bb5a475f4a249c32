import numpy as np
import pytest

from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.renderer import MAX_RAIN, _stamp, _streak, blend, render_rain


@pytest.mark.parametrize(("render", "highest"), [(render_rain, MAX_RAIN), (render_photographic_rain, 1)])
@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (144, 96)])
def test_layer_is_float32_of_the_given_shape_within_range_and_depends_on_the_seed(shape, render, highest):
    layers = [render(shape, np.random.default_rng(seed)) for seed in (0, 1, 2, 3, 4, 0)]
    for rain in layers:
        assert (rain.shape, rain.dtype) == (shape, np.float32)
        assert rain.min() >= 0
        assert rain.max() <= highest
    assert layers[0].tobytes() == layers[-1].tobytes()
    assert shape == (1, 1) or not np.array_equal(layers[0], layers[1])


def test_border_is_as_rainy_as_the_middle():
    mean = np.mean([render_rain((96, 96), np.random.default_rng(seed)) for seed in range(150)], axis=0)
    inner = mean[24:72, 24:72].mean()
    rim = np.concatenate([mean[:4].ravel(), mean[-4:].ravel(), mean[:, :4].ravel(), mean[:, -4:].ravel()]).mean()
    assert rim == pytest.approx(inner, rel=0.15)


@pytest.mark.parametrize("centre", [(0, 0), (-3, 4), (11, 12), (-40, 5), (5, 60), (50, 50)])
def test_stamp_is_cut_at_the_border_and_keeps_brighter_values(centre):
    streak = _streak(9.0, 20.0, 0.3)
    radius = streak.shape[0] // 2
    canvas = np.full((12, 13), 0.5, np.float32)
    _stamp(canvas, streak, *centre)
    for y in range(12):
        for x in range(13):
            row, column = y - centre[0] + radius, x - centre[1] + radius
            inside = 0 <= row < streak.shape[0] and 0 <= column < streak.shape[1]
            assert canvas[y, x] == max(0.5, streak[row, column] if inside else 0.0)


@pytest.mark.parametrize(("mode", "expected"), [("additive", [0.6, 0.9, 1.0]), ("screen", [0.52, 0.7, 0.94])])
def test_blend_formulas(mode, expected):
    clean = np.array([[[0.2, 0.5, 0.9]]], np.float32)
    rainy = blend(clean, np.array([[0.4]], np.float32), mode)
    np.testing.assert_allclose(rainy, [[expected]], rtol=1e-6)
    assert rainy.dtype == np.float32
    assert clean.ravel().tolist() == np.float32([0.2, 0.5, 0.9]).tolist()
    np.testing.assert_array_equal(blend(clean[:, ::-1], np.zeros((1, 1)), mode), clean[:, ::-1])
