import math
import sys

import numpy as np
import pytest
import torch

from nlcl_plugin.ops import intrinsic_dimension
from nlcl_plugin.ops.intrinsic_dimension import METHODS, nearest_distances


def distinct(points):
    """Rows that equal no earlier one."""
    return np.array([p for i, p in enumerate(points) if not any((p == q).all() for q in points[:i])])


def loop_distances(points):
    """Sorted distances of each distinct point to the others, float64, by the definition."""
    points = distinct(np.asarray(points, np.float64))
    return [sorted(math.dist(p, q) for j, q in enumerate(points) if j != i) for i, p in enumerate(points)]


def loop_mle(points, k1, k2):
    distances = loop_distances(points)
    if len(distances) <= k2:
        return math.nan
    estimates = []
    for k in range(k1, k2 + 1):
        inverses = [sum(math.log(t[k - 1] / t[j]) for j in range(k - 1)) / (k - 1) for t in distances]
        estimates.append(1 / (sum(inverses) / len(inverses)))
    return sum(estimates) / len(estimates)


def loop_two_nn(points, discard):
    distances = loop_distances(points)
    ratios = sorted(t[1] / t[0] for t in distances)
    count = len(ratios)
    kept = min(int(count * (1 - discard)), count - 1)
    x = [math.log(ratio) for ratio in ratios[:kept]]
    y = [-math.log(1 - (i + 1) / count) for i in range(kept)]
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_sets(name, dtype):
    """Two sets of 60 points."""
    normal = torch.randn(2, 60, 7, generator=seeded(), dtype=torch.float64)
    sets = {
        "normal": normal,
        "one coordinate": normal[..., :1],
        "repeats": torch.cat([normal[:, :40], normal[:, 5:25]], 1),
        "far from the origin": normal + 1000,
        "8-bit": (normal * 20).round() / 255,
        "a tight pair": torch.cat([normal[:, :59], normal[:, :1] + 1e-5], 1),
        "tiny": normal * 1e-30,
        "huge": normal * 1e30,
    }
    return sets[name].to(dtype)


NAMES = ["normal", "one coordinate", "repeats", "far from the origin", "8-bit", "a tight pair", "tiny", "huge"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_of_the_loops(name, dtype):
    points = make_sets(name, dtype)
    rtol = 1e-4 if dtype == torch.float32 else 1e-9
    for k in (2, 9, (3, 12)):
        low, high = k if isinstance(k, tuple) else (k, k)
        want = [loop_mle(points[b], low, high) for b in range(2)]
        np.testing.assert_allclose(intrinsic_dimension(points, k=k), want, rtol=rtol)
    for discard in (0.0, 0.1, 0.4):
        found = intrinsic_dimension(points, method="two_nn", discard=discard)
        np.testing.assert_allclose(found, [loop_two_nn(points[b], discard) for b in range(2)], rtol=rtol)
        assert found.dtype == dtype


def test_distances_of_colour_patches_are_those_of_the_loop():
    """Many values and few points, where the fast distances differ most from the direct ones."""
    points = torch.rand(3, 20, 768, generator=seeded())
    points[1, 7] = points[1, 3] + 1e-6  # only this set is vague
    found = nearest_distances(points, 19)
    for b in range(3):
        want = np.array(loop_distances(points[b]))
        unit = found[b].max() / want.max()
        np.testing.assert_allclose(found[b] / unit, want, rtol=1e-5)


def test_many_sets_are_done_in_blocks_alike(monkeypatch):
    points = torch.randn(5, 30, 4, generator=seeded())
    whole = intrinsic_dimension(points, k=5)
    module = sys.modules[nearest_distances.__module__]  # whose name in the package is the function's
    monkeypatch.setattr(module, "_BLOCK", 2 * 30**2)
    assert torch.equal(intrinsic_dimension(points, k=5), whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_is_its_sets(method):
    sets = torch.randn(3, 50, 4, generator=seeded())
    together = intrinsic_dimension(sets, method=method)
    assert together.shape == (3,)
    for points, value in zip(sets, together, strict=True):
        alone = intrinsic_dimension(points, method=method)
        assert alone.shape == ()
        torch.testing.assert_close(alone, value, rtol=1e-6, atol=0)


def test_half_precision_is_taken_as_float32():
    points = torch.randn(50, 4, generator=seeded()).half()
    assert torch.equal(intrinsic_dimension(points), intrinsic_dimension(points.float()))


@pytest.mark.parametrize("method", METHODS)
def test_scale_shift_and_order_do_not_matter(method):
    points = torch.randn(200, 5, generator=seeded(), dtype=torch.float64)
    value = intrinsic_dimension(points, method=method).item()
    for other in (points * 2.0**300, points * 2.0**-300, points - 8, points[torch.randperm(200, generator=seeded())]):
        assert intrinsic_dimension(other, method=method).item() == pytest.approx(value, rel=1e-9)


# against another implementation ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("dimension", [1, 3, 10])
def test_values_are_those_of_scikit_dimension(dimension):
    skdim = pytest.importorskip("skdim", reason="needs the extra 'test': scikit-dimension")
    points = torch.rand(300, dimension, generator=seeded()) @ torch.randn(dimension, 12, generator=seeded(1))
    for k in (5, 20):
        theirs = skdim.id.MLE().fit(points.double().numpy(), n_neighbors=k, comb="mle").dimension_
        assert intrinsic_dimension(points, k=k).item() == pytest.approx(theirs, rel=1e-4)
    theirs = skdim.id.TwoNN(discard_fraction=0.1).fit(points.double().numpy()).dimension_
    assert intrinsic_dimension(points, method="two_nn").item() == pytest.approx(theirs, rel=1e-4)


# sets of known dimension ----------------------------------------------------------------------------------------------
def manifold(name, num=1000):
    generator = seeded(3)
    uniform = torch.rand(num, 9, generator=generator, dtype=torch.float64)
    normal = torch.randn(num, 9, generator=generator, dtype=torch.float64)
    if name == "swiss roll":
        angle = 1.5 * math.pi * (1 + 2 * uniform[:, 0])
        return torch.stack([angle * angle.cos(), 21 * uniform[:, 1], angle * angle.sin()], -1)
    kind, dimension = name.split()
    dimension = int(dimension)
    if kind == "cube":
        return uniform[:, :dimension]
    if kind == "sphere":
        return torch.nn.functional.normalize(normal[:, : dimension + 1], dim=-1)
    subspace = normal[:, :dimension] @ torch.randn(dimension, 40, generator=generator, dtype=torch.float64)
    return subspace + 1e-3 * torch.randn(num, 40, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "known", "low", "high"),
    [
        ("cube 1", 1, 0.95, 1.1),
        ("cube 2", 2, 0.9, 1.1),
        ("cube 5", 5, 0.8, 1.0),  # most of its points are near its border
        ("sphere 2", 2, 0.95, 1.1),
        ("sphere 5", 5, 0.9, 1.05),
        ("swiss roll", 2, 0.9, 1.1),
        ("subspace 2", 2, 0.9, 1.2),  # the noise adds dimensions where neighbours are near
        ("subspace 5", 5, 0.85, 1.05),
    ],
)
def test_known_dimensions_are_found_within_their_bias(name, known, low, high, method):
    found = intrinsic_dimension(manifold(name), method=method).item()
    assert low <= found / known <= high


def test_noise_of_the_size_of_the_distances_fills_the_space():
    plane = manifold("cube 2")
    noisy = torch.cat([plane, torch.zeros(1000, 18)], 1) + 0.1 * torch.randn(1000, 20, generator=seeded())
    assert intrinsic_dimension(noisy).item() > 3 * intrinsic_dimension(plane).item()


# degenerate sets ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_repeats_change_nothing(method, dtype):
    points = torch.rand(60, 3, generator=seeded(), dtype=dtype)
    repeated = torch.cat([points, points[:1].expand(100, 3), points[10:40]])
    value = intrinsic_dimension(points, method=method, k=9)
    torch.testing.assert_close(intrinsic_dimension(repeated, method=method, k=9), value, rtol=1e-5, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_sets_with_too_few_distinct_points_have_no_estimate_and_spare_the_others(method):
    sets = torch.rand(3, 40, 3, generator=seeded())
    alone = intrinsic_dimension(sets[2], method=method, k=9)
    sets[0] = 0.5
    sets[1, 2:] = sets[1, 0]  # two distinct points
    found = intrinsic_dimension(sets, method=method, k=9)
    assert found[:2].isnan().all()
    torch.testing.assert_close(found[2], alone, rtol=1e-5, atol=0)


def test_as_many_distinct_points_as_needed_suffice():
    points = torch.rand(10, 3, generator=seeded()).repeat(4, 1)
    assert intrinsic_dimension(points, k=9).isfinite()
    assert intrinsic_dimension(points, k=10).isnan()
    assert intrinsic_dimension(points[:3].repeat(2, 1), method="two_nn").isfinite()


@pytest.mark.parametrize("method", METHODS)
def test_neighbours_at_one_distance_are_infinitely_many_dimensions(method):
    for num in (16, 17, 30):
        assert intrinsic_dimension(torch.eye(num), method=method, k=9).item() == math.inf


@pytest.mark.parametrize(
    ("points", "options", "error", "message"),
    [
        (torch.rand(20, 3), {"k": 20}, ValueError, "at least 21 points, got 20"),
        (torch.rand(4, 20, 3), {"k": (5, 20)}, ValueError, "at least 21 points, got 20"),
        (torch.rand(2, 3), {"method": "two_nn"}, ValueError, "at least 3 points, got 2"),
        (torch.rand(20, 3), {"k": 1}, ValueError, "k must be at least 2"),
        (torch.rand(20, 3), {"k": (5, 4)}, ValueError, "k1 <= k2"),
        (torch.rand(20, 3), {"k": 5.0}, TypeError, "whole number"),
        (torch.rand(20, 3), {"method": "pca"}, ValueError, "mle, two_nn, got 'pca'"),
        (torch.rand(20, 3), {"method": "two_nn", "discard": 1.0}, ValueError, "discard"),
        (torch.rand(20), {}, ValueError, r"got shape \(20,\)"),
        (torch.rand(20, 0), {}, ValueError, r"got shape \(20, 0\)"),
        (torch.ones(30, 3, dtype=torch.int64), {}, TypeError, "int64"),
        ([[1.0]], {}, TypeError, "list"),
        (torch.full((30, 3), math.nan), {}, ValueError, "finite"),
    ],
)
def test_wrong_arguments_are_refused(points, options, error, message):
    with pytest.raises(error, match=message):
        intrinsic_dimension(points, **options)


def test_no_sets_have_no_estimates():
    assert intrinsic_dimension(torch.rand(0, 30, 3)).shape == (0,)
