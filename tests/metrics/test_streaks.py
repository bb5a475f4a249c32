import math

import numpy as np
import pytest
import skimage.data

from nlcl_plugin.metrics.streaks import precision_recall, streaks_left
from nlcl_plugin.rain import photographic
from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.renderer import render_rain


def test_precision_and_recall_count_the_pixels():
    rng = np.random.default_rng(0)
    rainy, derained, truth = rng.random((3, 13, 17, 3))
    hits = found = rain = 0
    for row in range(13):
        for column in range(17):
            taken = (rainy - derained)[row, column].mean() > 0.05
            there = (rainy - truth)[row, column].mean() > 0.05
            hits, found, rain = hits + (taken and there), found + taken, rain + there
    assert precision_recall(rainy, derained, truth) == (hits / found, hits / rain)


def test_precision_and_recall_are_nan_where_nothing_is_found_or_there():
    rainy = np.full((4, 5, 3), 0.5)
    assert precision_recall(rainy, rainy, rainy - 0.2) == (pytest.approx(math.nan, nan_ok=True), 0)
    assert precision_recall(rainy, rainy - 0.2, rainy) == (0, pytest.approx(math.nan, nan_ok=True))


@pytest.mark.parametrize("render", [render_rain, render_photographic_rain])
def test_streaks_left_is_about_the_fraction_of_rendered_rain_that_is_left(render, monkeypatch):
    monkeypatch.setattr(photographic, "WIDTH", (0.35, 2.0))  # wider light is no streak to the measure
    photographs = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    layers = (render((250, 250), np.random.default_rng(seed))[..., None] for seed in range(50))
    plain = (layer for layer in layers if (layer > 0.1).mean() > 0.05)
    figures = []
    for photograph in photographs:
        clean = 0.8 * photograph[30:280, 90:340] / 255
        rainy = (clean + next(plain)).clip(0, 1)
        left = [streaks_left(rainy, clean + fraction * (rainy - clean)) for fraction in (0, 0.25, 0.5, 0.75)]
        assert left == sorted(left)
        assert streaks_left(rainy, rainy) == 1
        figures.append(left)
    np.testing.assert_allclose(np.mean(figures, axis=0), [0, 0.25, 0.5, 0.75], atol=0.15)


def test_where_structure_has_as_much_direction_as_the_rain_there_is_no_figure():
    clean = 0.8 * skimage.data.astronaut()[30:280, 90:340] / 255
    rain = np.zeros((250, 250, 1))
    rain[100:120, 50::60] = 0.3  # four short streaks
    assert math.isnan(streaks_left(clean + rain, clean))
