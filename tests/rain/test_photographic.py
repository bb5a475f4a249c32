import math

import numpy as np
import pytest
from scipy.signal import fftconvolve

from nlcl_plugin.rain import photographic
from nlcl_plugin.rain.photographic import streak


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
