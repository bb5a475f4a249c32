import math

import numpy as np
import pytest

from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.renderer import MAX_RAIN, _streak, blend, render_rain


def _naive_streak(length, angle, blur):
    """A slow, obvious reference: distance of each pixel centre to the segment."""
    sigma = math.sqrt(0.5**2 + blur**2)
    radius = math.ceil(length / 2 + 3 * sigma)
    out = np.zeros((2 * radius + 1, 2 * radius + 1))
    dx, dy = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            t = min(max(column * dx + row * dy, -length / 2), length / 2)
            out[row + radius, column + radius] = math.exp(
                -((column - t * dx) ** 2 + (row - t * dy) ** 2) / (2 * sigma**2)
            )
    return out


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


@pytest.mark.parametrize(("length", "angle", "blur"), [(9.0, 0.0, 0.3), (14.3, 31.0, 0.6), (6.0, -40.0, 0.45)])
def test_streak_equals_the_naive_distance_to_a_segment(length, angle, blur):
    streak = _streak(length, angle, blur)
    assert streak.max() == 1.0
    np.testing.assert_allclose(streak, _naive_streak(length, angle, blur), atol=1e-4)


@pytest.mark.parametrize(("mode", "expected"), [("additive", [0.6, 0.9, 1.0]), ("screen", [0.52, 0.7, 0.94])])
def test_blend_formulas(mode, expected):
    clean = np.array([[[0.2, 0.5, 0.9]]], np.float32)
    rainy = blend(clean, np.array([[0.4]], np.float32), mode)
    np.testing.assert_allclose(rainy, [[expected]], rtol=1e-6)
    assert rainy.dtype == np.float32
    assert clean.ravel().tolist() == np.float32([0.2, 0.5, 0.9]).tolist()
    np.testing.assert_array_equal(blend(clean[:, ::-1], np.zeros((1, 1)), mode), clean[:, ::-1])
