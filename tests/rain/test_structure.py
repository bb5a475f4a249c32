import numpy as np
import pytest
import torch

from nlcl_plugin.rain import structure
from nlcl_plugin.rain.batch_random import BatchRandom
from nlcl_plugin.rain.structure import add_structure, draw_structure
from nlcl_plugin.rain.variation import RainVariation

KINDS = ("_cables", "_railing", "_grid", "_twigs", "_leaves", "_letters", "_lights")


@pytest.mark.parametrize("shape", [(1, 1, 3), (9, 70, 3), (64, 48, 3)])
def test_drawing_keeps_shape_and_range_and_depends_on_the_seed(shape):
    image = np.full(shape, 0.4, np.float32)
    drawn = [draw_structure(image, np.random.default_rng(seed)) for seed in [*range(40), 0]]
    for picture in drawn:
        assert (picture.shape, picture.dtype) == (shape, np.float32)
        assert picture.min() >= 0
        assert picture.max() <= 1
    assert drawn[0].tobytes() == drawn[-1].tobytes()
    assert len({picture.tobytes() for picture in drawn}) > 20 or shape == (1, 1, 3)
    assert (image == np.float32(0.4)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_drawn_and_leaves_most_of_the_image_as_it_was(kind, monkeypatch):
    monkeypatch.setattr(structure, "_MOST", 1)
    for other in KINDS:
        monkeypatch.setattr(structure, other, getattr(structure, kind))
    image = np.random.default_rng(0).random((96, 96, 3), np.float32)
    changed = [(draw_structure(image, np.random.default_rng(seed)) != image).any(-1).mean() for seed in range(20)]
    assert np.median(changed) > 0.002
    assert np.median(changed) < 0.7


def test_as_many_images_get_structure_as_asked_for_and_each_the_same_in_any_split_of_the_batch():
    torch.manual_seed(0)
    clean = torch.rand(200, 3, 32, 32)
    before = clean.clone()
    drawn = add_structure(clean, RainVariation(structure=0.4), BatchRandom(0, 3, range(200), 200))
    assert torch.equal(clean, before)
    assert 0.25 < (drawn != clean).flatten(1).any(1).float().mean() < 0.45  # a little may be drawn outside
    half = add_structure(clean[1::2], RainVariation(structure=0.4), BatchRandom(0, 3, range(1, 200, 2), 200))
    assert torch.equal(half, drawn[1::2])
