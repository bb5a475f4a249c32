import math

import pytest
import torch

from nlcl_plugin.ops import dimension_ratio, intrinsic_dimension, layer_dimensions, nonlocal_neighbours
from nlcl_plugin.ops.layer_dimension import neighbour_sets
from nlcl_plugin.ops.patch_sets import patch_deviation, textured_centres


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(batch=2, channels=3, size=48):
    return torch.rand(batch, channels, size, size, generator=seeded(7))


def waves(batch=2, channels=3, size=48):
    """Smooth stripes with a little noise: simpler than noise."""
    stripes = 0.5 + 0.4 * (torch.arange(size) / 5 + torch.arange(batch)[:, None, None, None]).sin()
    return stripes.expand(batch, channels, size, size) + 0.01 * noise(batch, channels, size)


def loop(layer, generator, *, patch_size, search_size, k, num_queries, flat):
    """Query by query, patch by patch, with the public estimator."""
    inverses = []
    for image in layer:
        allowed = patch_deviation(image[None], patch_size)[0] > flat
        for query in textured_centres(allowed, num_queries, patch_size, generator=generator):
            centres, _ = nonlocal_neighbours(
                image[None], query[None, None], patch_size=patch_size, search_size=search_size, k=k
            )
            corners = (centres[0, 0] - patch_size // 2).tolist()
            points = [image[:, r : r + patch_size, c : c + patch_size].flatten() for r, c in corners]
            value = intrinsic_dimension(torch.stack(points), k=k // 4).item()
            inverses += [] if math.isnan(value) else [1 / value]
    return len(inverses) / sum(inverses) if inverses else math.nan


def test_values_are_those_of_the_loop():
    options = {"patch_size": 6, "search_size": 20, "k": 32, "num_queries": 4, "flat": 0.02}
    image, rain = noise(), waves(channels=1)
    rain[:, :, :, 20:] = 0  # dry for the most part
    generator = seeded(1)
    want = [loop(layer, generator, **options) for layer in (image, rain)]
    assert layer_dimensions(image, rain, generator=seeded(1), **options) == pytest.approx(want, rel=1e-4)


def test_the_simpler_layer_has_the_lower_dimension_whichever_it_is():
    first, second = layer_dimensions(noise(), waves(), generator=seeded())
    assert second < 0.5 * first
    first, second = layer_dimensions(waves(), noise(), generator=seeded())
    assert first < 0.5 * second


def test_grey_rain_counts_as_the_same_rain_in_colour():
    grey = waves(channels=1)
    one = layer_dimensions(noise(), grey, generator=seeded())
    three = layer_dimensions(noise(), grey.expand(-1, 3, -1, -1), generator=seeded())
    assert one == pytest.approx(three, rel=1e-4)


def test_a_layer_without_texture_has_no_dimension():
    image, rain = layer_dimensions(noise(), torch.zeros(2, 1, 48, 48), generator=seeded())
    assert math.isfinite(image)
    assert math.isnan(rain)


def test_sets_that_are_dry_but_for_a_few_patches_are_left_out():
    rain = torch.zeros(1, 1, 48, 48)
    rain[..., 24, 24] = 1.0  # each patch with this drop differs, 16 of them, and all others are equal
    assert math.isnan(layer_dimensions(noise(1), rain, patch_size=4, k=128, generator=seeded())[1])
    dry = noise(2, 1)
    dry[1] = 0
    alone = layer_dimensions(noise(), dry[:1], generator=seeded())[1]
    assert layer_dimensions(noise(), dry, generator=seeded())[1] == pytest.approx(alone)


@pytest.mark.parametrize("size", [64, 256])
def test_the_defaults_fit_training_crops(size):
    found = layer_dimensions(noise(1, 3, size), waves(1, 1, size), generator=seeded())
    assert all(math.isfinite(value) for value in found)


def test_nothing_carries_a_gradient_and_inputs_stay():
    image = noise().requires_grad_()
    before = image.detach().clone()
    assert isinstance(layer_dimensions(image, waves(), generator=seeded())[0], float)
    assert torch.equal(image, before)


def test_neighbours_without_mean_are_the_same_patches():
    queries = torch.tensor([[20, 20], [10, 30]])
    sizes = {"patch_size": 6, "search_size": 16, "k": 10}
    plain = neighbour_sets(noise(1), queries, **sizes).view(2, 10, 3, 36)
    centred = neighbour_sets(noise(1), queries, remove_mean=True, **sizes).view(2, 10, 3, 36)
    torch.testing.assert_close(centred, plain - plain.mean(-1, keepdim=True))


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="k must be at least 8, got 7"):
        layer_dimensions(noise(), waves(), k=7)
    with pytest.raises(ValueError, match="k = 64 is above the"):
        layer_dimensions(noise(), waves(), search_size=8, patch_size=8, generator=seeded())


def test_the_ratio_is_clipped_and_unknown_is_one():
    assert dimension_ratio(8, 4) == 2
    assert dimension_ratio(100, 4) == 4
    assert dimension_ratio(4, 100) == 0.25
    assert dimension_ratio(4, 100, limit=8) == 0.125
    assert dimension_ratio(math.inf, 4) == 4
    assert dimension_ratio(4, math.inf) == 0.25
    for pair in ((math.nan, 4), (4, math.nan), (0, 4), (4, 0), (math.inf, math.inf)):
        assert dimension_ratio(*pair) == 1
    with pytest.raises(ValueError, match="limit"):
        dimension_ratio(4, 4, limit=0.5)
