import math
from functools import partial

import numpy as np
import pytest
import torch

from nlcl_plugin.ops import dimension_ratio, intrinsic_dimension, layer_dimensions, nonlocal_neighbours
from nlcl_plugin.ops.patch_sets import patch_deviation, textured_centres

ESTIMATORS = {"mle": intrinsic_dimension, "two_nn": partial(intrinsic_dimension, method="two_nn")}


def loop_distances(points):
    """Sorted distances of each distinct point to the others, float64, by the definition."""
    points = np.asarray(points, np.float64)
    points = np.array([p for i, p in enumerate(points) if not any((p == q).all() for q in points[:i])])
    return [sorted(math.dist(p, q) for j, q in enumerate(points) if j != i) for i, p in enumerate(points)]


def loop_mle(points, k1, k2):
    distances = loop_distances(points)
    estimates = []
    for k in range(k1, k2 + 1):
        inverses = [sum(math.log(t[k - 1] / t[j]) for j in range(k - 1)) / (k - 1) for t in distances]
        estimates.append(1 / (sum(inverses) / len(inverses)))
    return sum(estimates) / len(estimates)


def loop_two_nn(points):
    ratios = sorted(t[1] / t[0] for t in loop_distances(points))
    count = len(ratios)
    kept = min(int(count * 0.9), count - 1)
    x = [math.log(ratio) for ratio in ratios[:kept]]
    y = [-math.log(1 - (i + 1) / count) for i in range(kept)]
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


NORMAL = torch.randn(2, 60, 7, generator=seeded(), dtype=torch.float64)
SETS = {
    "one coordinate": NORMAL[..., :1],
    "repeats": torch.cat([NORMAL[:, :40], NORMAL[:, 5:25]], 1),
    "far from the origin": NORMAL + 1000,
    "8-bit": (NORMAL * 20).round() / 255,
    "a tight pair": torch.cat([NORMAL[:, :59], NORMAL[:, :1] + 1e-5], 1),
    "tiny": NORMAL * 1e-30,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SETS)
def test_values_are_those_of_the_loops(name, dtype):
    points = SETS[name].to(dtype)
    for k in (2, (3, 12)):
        low, high = k if isinstance(k, tuple) else (k, k)
        found = intrinsic_dimension(points, k=k)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, [loop_mle(one, low, high) for one in points], rtol=1e-6)
    found = intrinsic_dimension(points, method="two_nn")
    np.testing.assert_allclose(found, [loop_two_nn(one) for one in points], rtol=1e-6)


def test_a_batch_is_its_sets_and_half_precision_is_float32():
    sets = torch.randn(3, 50, 4, generator=seeded()).half()
    together = intrinsic_dimension(sets)
    assert (together.shape, together.dtype) == ((3,), torch.float32)
    for points, value in zip(sets, together, strict=True):
        torch.testing.assert_close(intrinsic_dimension(points.float()), value, rtol=1e-6, atol=0)
    assert intrinsic_dimension(torch.rand(0, 30, 3)).shape == (0,)


@pytest.mark.parametrize("dimension", [1, 3, 10])
def test_values_are_those_of_scikit_dimension(dimension):
    skdim = pytest.importorskip("skdim", reason="needs the extra 'test': scikit-dimension")
    points = torch.rand(300, dimension, generator=seeded()) @ torch.randn(dimension, 12, generator=seeded(1))
    theirs = skdim.id.MLE().fit(points.double().numpy(), n_neighbors=20, comb="mle").dimension_
    assert intrinsic_dimension(points, k=20).item() == pytest.approx(theirs, rel=1e-4)
    theirs = skdim.id.TwoNN(discard_fraction=0.1).fit(points.double().numpy()).dimension_
    assert intrinsic_dimension(points, method="two_nn").item() == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("method", ESTIMATORS)
def test_repeats_change_nothing_and_sets_without_enough_distinct_points_have_no_estimate(method):
    estimate = ESTIMATORS[method]
    sets = torch.rand(3, 40, 3, generator=seeded())
    alone = estimate(sets[2])
    torch.testing.assert_close(estimate(torch.cat([sets[2], sets[2, :1].expand(100, 3), sets[2, 10:30]])), alone)
    sets[0] = 0.5
    sets[1, 2:] = sets[1, 0]  # two distinct points
    found = estimate(sets)
    assert found[:2].isnan().all()
    torch.testing.assert_close(found[2], alone)
    assert estimate(torch.eye(30)).item() == math.inf  # all neighbours at one distance


@pytest.mark.parametrize(
    ("points", "k", "error", "message"),
    [
        (torch.rand(4, 20, 3), (5, 20), ValueError, "below the 20 points"),
        (torch.rand(20, 3), 1, ValueError, "k must be from 2"),
        (torch.rand(20), 5, ValueError, r"got shape \(20,\)"),
        (torch.full((30, 3), math.nan), 5, ValueError, "finite"),
    ],
)
def test_wrong_points_are_refused(points, k, error, message):
    with pytest.raises(error, match=message):
        intrinsic_dimension(points, k=k)


# layers ---------------------------------------------------------------------------------------------------------------
def noise(batch=2, channels=3, size=48):
    return torch.rand(batch, channels, size, size, generator=seeded(7))


def waves(batch=2, channels=3, size=48):
    """Smooth stripes with a little noise: simpler than noise."""
    stripes = 0.5 + 0.4 * (torch.arange(size) / 5 + torch.arange(batch)[:, None, None, None]).sin()
    return stripes.expand(batch, channels, size, size) + 0.01 * noise(batch, channels, size)


def loop(layer, generator, *, patch_size, search_size, k, num_queries, flat):
    """Query by query, patch by patch, with the public estimator."""
    sizes, inverses = {"patch_size": patch_size, "search_size": search_size, "k": k}, []
    for image in layer:
        allowed = patch_deviation(image[None], patch_size)[0] > flat
        for query in textured_centres(allowed, num_queries, patch_size, generator=generator):
            centres, _ = nonlocal_neighbours(image[None], query[None, None], **sizes)
            corners = (centres[0, 0] - patch_size // 2).tolist()
            points = [image[:, r : r + patch_size, c : c + patch_size].flatten() for r, c in corners]
            value = intrinsic_dimension(torch.stack(points), k=k // 4).item()
            inverses += [] if math.isnan(value) else [1 / value]
    return len(inverses) / sum(inverses)


def test_layers_have_the_values_of_the_loop_and_no_gradient():
    options = {"patch_size": 6, "search_size": 20, "k": 32, "num_queries": 4, "flat": 0.02}
    image, rain = noise().requires_grad_(), waves(channels=1)
    rain[:, :, :, 20:] = 0  # dry for the most part
    generator = seeded(1)
    want = [loop(layer, generator, **options) for layer in (image.detach(), rain)]
    assert layer_dimensions(image, rain, generator=seeded(1), **options) == pytest.approx(want, rel=1e-4)


def test_the_simpler_layer_has_the_lower_dimension_and_grey_rain_counts_as_in_colour():
    first, second = layer_dimensions(noise(), waves(channels=1), generator=seeded())
    assert second < 0.5 * first
    colour = layer_dimensions(noise(), waves(channels=1).expand(-1, 3, -1, -1), generator=seeded())
    assert (first, second) == pytest.approx(colour, rel=1e-4)


def test_dry_sets_are_left_out_and_a_dry_layer_has_no_dimension():
    drop = torch.zeros(1, 1, 48, 48)
    drop[..., 24, 24] = 1.0  # each patch with this drop differs, 16 of them, and all others are equal
    assert math.isnan(layer_dimensions(noise(1), drop, patch_size=4, k=128, generator=seeded())[1])
    image, rain = layer_dimensions(noise(), torch.zeros(2, 1, 48, 48), generator=seeded())
    assert math.isfinite(image)
    assert math.isnan(rain)
    dry = noise(2, 1)
    dry[1] = 0
    alone = layer_dimensions(noise(), dry[:1], generator=seeded())[1]
    assert layer_dimensions(noise(), dry, generator=seeded())[1] == pytest.approx(alone)


def test_the_ratio_is_clipped_and_unknown_is_one():
    for pair, ratio in {(8, 4): 2, (100, 4): 4, (4, 100): 0.25, (math.inf, 4): 4, (4, math.inf): 0.25}.items():
        assert dimension_ratio(*pair) == ratio
    for pair in ((math.nan, 4), (0, 4), (4, 0), (math.inf, math.inf)):
        assert dimension_ratio(*pair) == 1
