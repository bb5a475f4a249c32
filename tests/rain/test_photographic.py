import math

import numpy as np
import pytest
from scipy.signal import fftconvolve

from nlcl_plugin.rain import photographic
from nlcl_plugin.rain.photographic import render_photographic_rain, streak


@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (96, 64)])
def test_layer_is_float32_of_the_given_shape_within_range_and_depends_on_the_seed(shape):
    layers = [render_photographic_rain(shape, np.random.default_rng(seed)) for seed in (0, 1, 2, 3, 0)]
    for rain in layers:
        assert (rain.shape, rain.dtype) == (shape, np.float32)
        assert rain.min() >= 0
        assert rain.max() <= 1
    assert layers[0].tobytes() == layers[-1].tobytes()
    assert shape == (1, 1) or not np.array_equal(layers[0], layers[1])


def test_border_is_as_rainy_as_the_middle():
    mean = np.mean([render_photographic_rain((96, 96), np.random.default_rng(seed)) for seed in range(300)], axis=0)
    inner = mean[24:72, 24:72].mean()
    rim = np.concatenate([mean[:4].ravel(), mean[-4:].ravel(), mean[:, :4].ravel(), mean[:, -4:].ravel()]).mean()
    assert rim == pytest.approx(inner, rel=0.15)


def test_density_and_brightness_vary_widely():
    layers = [render_photographic_rain((96, 96), np.random.default_rng(seed)) for seed in range(200)]
    low, high = np.quantile([(layer > 0.03).mean() for layer in layers], [0.1, 0.95])
    assert low < 0.02
    assert high > 0.3
    faint, bright = np.quantile([layer.max() for layer in layers], [0.1, 0.9])
    assert faint < 0.3
    assert bright > 0.9


def test_the_streaks_of_an_image_have_one_direction(monkeypatch):
    monkeypatch.setattr(photographic, "LENGTH", (20.0, 40.0))
    rng = np.random.default_rng(4)
    angle = np.clip(np.random.default_rng(4).normal(0.0, photographic.ANGLE_SPREAD), -50.0, 50.0)  # as it draws it
    rows, columns = np.gradient(render_photographic_rain((128, 128), rng))
    # The structure tensor's weak direction: along which brightness changes least.
    across = 0.5 * math.atan2(2 * (rows * columns).sum(), (columns**2).sum() - (rows**2).sum())
    assert math.degrees(-across) == pytest.approx(angle, abs=4)


@pytest.mark.parametrize(("length", "angle", "width"), [(20.0, 0.0, 1.0), (31.0, 37.0, 0.6), (3.0, -80.0, 0.35)])
@pytest.mark.parametrize("taper", [1.0, 4.0])
def test_streak_fades_to_half_at_its_ends_and_by_its_width_across(length, angle, width, taper):
    drawn = streak(length, angle, width, taper=taper, curvature=0.001)
    radius = len(drawn) // 2
    assert drawn[radius, radius] == drawn.max() == 1
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            t = column * sine + row * cosine
            bend = 0.001 * length * (2 * t / length) ** 2
            d = column * cosine - row * sine - bend
            expected = 2.0 ** -(abs(2 * t / length) ** taper) * math.exp(-(d**2) / (2 * width**2))
            assert drawn[row + radius, column + radius] == pytest.approx(expected, abs=1e-5)
    if taper == 4.0:
        assert max(drawn[0].max(), drawn[-1].max(), drawn[:, 0].max(), drawn[:, -1].max()) < 0.03


def test_a_layer_is_its_streaks_stamped_one_by_one(monkeypatch):
    monkeypatch.setattr(photographic, "COVER", (0.3, 0.3))
    drawn = []
    monkeypatch.setattr(photographic, "fftconvolve", lambda *args, **kw: drawn.append(args) or fftconvolve(*args, **kw))
    layer = photographic._layer((40, 30), 20.0, np.random.default_rng(1))
    ((points, streaks),) = drawn
    side = streaks.shape[-1]
    stamped = np.zeros(np.add(points.shape[1:], side - 1))
    for kind, row, column in np.argwhere(points):
        stamped[row : row + side, column : column + side] += points[kind, row, column] * streaks[kind]
    assert len(np.argwhere(points)) > 10
    np.testing.assert_allclose(layer, stamped[side - 1 : 1 - side, side - 1 : 1 - side], atol=1e-5)
