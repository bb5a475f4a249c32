import math

import numpy as np
import pytest

from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.renderer import MAX_RAIN, blend, render_rain


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


@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (64, 64), (144, 96)])
@pytest.mark.parametrize("seed", range(5))
def test_layer_is_float32_of_the_given_shape_within_range(shape, seed):
    rain = render_rain(shape, np.random.default_rng(seed))
    assert rain.shape == shape
    assert rain.dtype == np.float32
    assert rain.min() >= 0
    assert rain.max() <= MAX_RAIN


def test_same_seed_gives_the_same_layer_and_another_seed_another():
    first, again, other = (render_rain((48, 48), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert not np.array_equal(first, other)


def test_heavy_rain_is_clipped_at_the_limit():
    rain = render_rain((32, 32), np.random.default_rng(0), density=(0.1, 0.1), amplitude=(1.0, 1.0))
    assert rain.max() == np.float32(MAX_RAIN)


def test_no_drops_give_no_rain():
    assert not render_rain((32, 32), np.random.default_rng(0), density=(0.0, 0.0)).any()


def test_more_drops_give_more_rain():
    means = [
        np.mean([render_rain((64, 64), np.random.default_rng(s), density=(d, d)).mean() for s in range(8)])
        for d in (0.0005, 0.002, 0.008)
    ]
    assert means[0] < means[1] < means[2]


def test_border_is_as_rainy_as_the_middle():
    mean = np.mean([render_rain((96, 96), np.random.default_rng(seed)) for seed in range(150)], axis=0)
    inner = mean[24:72, 24:72].mean()
    rim = np.concatenate([mean[:4].ravel(), mean[-4:].ravel(), mean[:, :4].ravel(), mean[:, -4:].ravel()]).mean()
    assert rim == pytest.approx(inner, rel=0.15)


def test_upright_rain_varies_across_far_more_than_along():
    rain = render_rain((128, 128), np.random.default_rng(1), max_angle=0.0)
    across, along = np.abs(np.diff(rain, axis=1)).mean(), np.abs(np.diff(rain, axis=0)).mean()
    assert across > 3 * along


@pytest.mark.parametrize(("length", "angle", "blur"), [(9.0, 0.0, 0.3), (14.3, 31.0, 0.6), (6.0, -40.0, 0.45)])
def test_streak_equals_the_naive_distance_to_a_segment(length, angle, blur):
    from nlcl_plugin.rain.renderer import _streak

    streak = _streak(length, angle, blur)
    assert streak.max() == 1.0
    np.testing.assert_allclose(streak, _naive_streak(length, angle, blur), atol=1e-4)


def test_positive_angle_leans_down_to_the_right():
    from nlcl_plugin.rain.renderer import _streak

    streak = _streak(15.0, 30.0, 0.3)
    middle = streak.shape[0] // 2
    assert streak[middle + 4 :, middle:].sum() > 5 * streak[middle + 4 :, :middle].sum()


@pytest.mark.parametrize("centre", [(0, 0), (-3, 4), (11, 12), (-40, 5), (5, 60), (50, 50)])
def test_stamp_is_cut_at_the_border_and_keeps_brighter_values(centre):
    from nlcl_plugin.rain.renderer import _stamp, _streak

    streak = _streak(9.0, 20.0, 0.3)
    radius = streak.shape[0] // 2
    canvas = np.full((12, 13), 0.5, np.float32)
    _stamp(canvas, streak, *centre)
    for y in range(12):
        for x in range(13):
            row, column = y - centre[0] + radius, x - centre[1] + radius
            inside = 0 <= row < streak.shape[0] and 0 <= column < streak.shape[1]
            assert canvas[y, x] == max(0.5, streak[row, column] if inside else 0.0)


def test_blend_formulas():
    clean = np.array([[[0.2, 0.5, 0.9]]], np.float32)
    rain = np.array([[0.4]], np.float32)
    np.testing.assert_allclose(blend(clean, rain), [[[0.6, 0.9, 1.0]]], rtol=1e-6)
    np.testing.assert_allclose(blend(clean, rain, "additive"), [[[0.6, 0.9, 1.0]]], rtol=1e-6)
    np.testing.assert_allclose(blend(clean, rain, "screen"), [[[0.52, 0.7, 0.94]]], rtol=1e-6)
    assert blend(clean, rain, "screen").dtype == np.float32
    np.testing.assert_array_equal(clean, np.array([[[0.2, 0.5, 0.9]]], np.float32))


def test_blend_stays_in_range_and_no_rain_changes_nothing():
    rng = np.random.default_rng(0)
    clean = rng.random((16, 16, 3), np.float32)
    rain = render_rain((16, 16), rng, density=(0.02, 0.02))
    for mode in ("additive", "screen"):
        rainy = blend(clean, rain, mode)
        assert (rainy >= clean).all()
        assert rainy.max() <= 1
        np.testing.assert_array_equal(blend(clean, np.zeros_like(rain), mode), clean)


def test_blend_refuses_an_unknown_mode_and_other_sizes():
    clean, rain = np.zeros((4, 5, 3), np.float32), np.zeros((4, 5), np.float32)
    with pytest.raises(InputError, match=r"'multiply', expected one of: additive, screen"):
        blend(clean, rain, "multiply")
    with pytest.raises(InputError, match=r"expected \(H, W, C\) and \(H, W\)"):
        blend(clean, rain.T)
