"""Intrinsic dimension of sets of points, and of the non-local neighbours in the image layer and the rain layer.

The measure on which the asymmetry of NLCL rests (Chang et al., IEEE TPAMI 2024, arXiv 2211.00837): self-similar image
patches are reported to have a higher intrinsic dimension than rain patches. The measurement here is ours;
docs/intrinsic_dimension.md has the results.

Two estimators, both from the distances T_1 <= ... <= T_k of each point to its nearest neighbours:

- `mle`: Levina and Bickel, "Maximum Likelihood Estimation of Intrinsic Dimension", NIPS 2004. 1 / m_k is the mean of
  log(T_k / T_j) over j < k. The *inverses* are averaged over the points (MacKay and Ghahramani, "Comments on 'Maximum
  Likelihood Estimation of Intrinsic Dimension' by E. Levina and P. Bickel", 2005), which is the likelihood's maximum
  for all points together and free of the upward bias that the mean of m_k has at small k.
- `two_nn`: Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal
  neighborhood information", Scientific Reports 7, 2017. The ratios T_2 / T_1 follow a Pareto law whose exponent is
  the dimension: the slope through the origin of -log(1 - F) over log(T_2 / T_1), where F is the fraction of the
  ratios up to this one, without the largest tenth of the ratios.

Both underestimate high dimensions, the more the fewer the points: a cube of 32 dimensions that 1,024 points are drawn
from has nearly all of them at its border.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nlcl_plugin.ops.patch_search import nonlocal_neighbours
from nlcl_plugin.ops.patch_sets import gather_patches, patch_deviation, textured_centres

FLAT = 1 / 255
"""Standard deviation up to which a patch counts as flat: one step of 8 bits."""
LARGEST_RATIO = 4.0  # of the layers' dimensions; beyond, the estimates are too rough to follow


@torch.no_grad()
def intrinsic_dimension(points: Tensor, *, method: str = "mle", k: int | tuple[int, int] = (10, 20)) -> Tensor:
    """Estimate the intrinsic dimension of sets of points; see the module for both methods.

    Only ratios of distances matter: shifts, rotations and scale do not. Repeated points count once: a distance of 0
    would make every estimate 0.

    Args:
        points: One set (N, D) or sets of equal size (B, N, D), finite. Memory grows with B N².
        method: `mle` or `two_nn`.
        k: Neighbours of each point for `mle`: a number of at least 2, or a range (k1, k2), both inclusive, over which
            the estimates are averaged as in Levina and Bickel. Not used by `two_nn`.

    Returns:
        The estimates, () for one set or (B,), float64 for points of that type, else float32. NaN for a set
        with too few distinct points, infinite where all neighbours of all points are at one distance.

    Raises:
        ValueError: If a shape, the method or ``k`` is wrong, a value is not finite, or a set has not more than ``k``
            points (`two_nn`: fewer than 3).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> plane = torch.rand(1000, 2, generator=generator) @ torch.randn(2, 50, generator=generator)
        >>> cube = torch.rand(1000, 16, generator=generator)  # too few points for so high a dimension
        >>> round(intrinsic_dimension(plane).item(), 1), round(intrinsic_dimension(cube).item(), 1)
        (1.9, 12.0)
        >>> round(intrinsic_dimension(plane, method="two_nn").item(), 1)
        2.1
    """
    if points.ndim not in (2, 3) or 0 in points.shape[1:]:
        raise ValueError(f"points must be (N, D) or (B, N, D), got shape {tuple(points.shape)}")
    if not bool(points.isfinite().all()):
        raise ValueError("points must be finite, got NaN or infinity")
    if method not in ("mle", "two_nn"):
        raise ValueError(f"method must be mle or two_nn, got {method!r}")
    low, high = (2, 2) if method == "two_nn" else (k, k) if isinstance(k, int) else k
    if not 2 <= low <= high < points.shape[-2]:
        raise ValueError(f"k must be from 2 to below the {points.shape[-2]} points, or a range (k1, k2), got {k}")
    distances = nearest_distances(points if points.ndim == 3 else points[None], high)
    dimension = mle_dimension(distances, (low, high)) if method == "mle" else two_nn_dimension(distances)
    dimension = dimension.to(points.dtype if points.dtype == torch.float64 else torch.float32)
    return dimension if points.ndim == 3 else dimension[0]


def nearest_distances(points: Tensor, k: int) -> Tensor:
    """Distances of each point to its nearest neighbours among the distinct points of its set.

    For sets (B, N, D) distances (B, N, k), float64, nearest first; never 0, infinite where a set has not so many
    distinct points. A point that equals an earlier one is a repeat: nobody's neighbour, with NaN in its own row.
    """
    points = points.double()
    # Directly, as a product of matrices loses small distances.
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    earlier = torch.ones(points.shape[1], points.shape[1], dtype=torch.bool, device=points.device).tril_(-1)
    repeats = ((distances == 0) & earlier).any(-1)
    distances.diagonal(dim1=1, dim2=2).fill_(math.inf)
    distances.masked_fill_(repeats[:, None], math.inf)
    return distances.topk(k, largest=False).values.masked_fill_(repeats[..., None], math.nan)


def mle_dimension(distances: Tensor, k: int | tuple[int, int]) -> Tensor:
    """Levina and Bickel's estimates (B,), float64, from distances of `nearest_distances` (B, N, K), for 2 <= k <= K.

    Of an inclusive range the mean of the estimates; NaN for sets without so many distinct points.
    """
    low, high = (k, k) if isinstance(k, int) else k
    logs = distances[..., :high].log()
    ranks = torch.arange(low - 1, high, device=logs.device)  # of T_k, counted from 0: also the number of T_j below it
    below = logs.cumsum(-1)[..., low - 2 : high - 1] / ranks
    difference = logs[..., low - 1 :] - below
    inverse = difference.masked_fill(difference < 1e-12, 0.0).nanmean(1)  # equal distances differ by rounding
    short = torch.isinf(logs).any(-1).any(-1)
    return (1 / inverse).mean(-1).masked_fill(short, math.nan)


def two_nn_dimension(distances: Tensor) -> Tensor:
    """TwoNN's estimates (B,), float64, from distances of `nearest_distances`; NaN below 3 distinct points."""
    near = distances[..., :2]
    # NaN, the ratio of repeats, is sorted behind all others.
    x = (near[..., 1].log() - near[..., 0].log()).sort(-1).values
    x = x.masked_fill(x < 1e-12, 0.0)  # equal distances differ by rounding
    count = (~near[..., 0].isnan()).sum(-1).double()
    # Without the largest tenth, and the largest one in any case, whose -log(1 - F) is infinite.
    kept = (count * 0.9).floor().minimum(count - 1)
    rank = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=torch.float64)
    used = rank <= kept[:, None]
    y = -torch.log1p(-rank / count[:, None].clamp(min=1))
    x, y = x.where(used, 0), y.where(used, 0)
    level = (x * x).sum(-1)
    slope = torch.where(level > 0, (x * y).sum(-1) / level, math.inf)
    return slope.masked_fill((count < 3) | (kept < 1), math.nan)


@torch.no_grad()
def layer_dimensions(
    image_layer: Tensor,
    rain_layer: Tensor,
    *,
    patch_size: int = 8,
    search_size: int = 40,
    k: int = 64,
    num_queries: int = 8,
    flat: float = FLAT,
    generator: torch.Generator | None = None,
) -> tuple[float, float]:
    """Estimate the intrinsic dimension of non-local neighbours in both layers, measured alike; cheap enough to log.

    In each layer query patches are drawn from those that are not flat; the set of a query is its ``k`` nearest
    patches in its search window, itself included. The estimate on a set is Levina and Bickel's over the nearest k // 4
    of its patches (see :func:`intrinsic_dimension`); the inverses are averaged over all sets of the batch. Sets that
    lie for the most part in flat areas, with no more than k // 4 distinct patches, are left out.

    Windows of overlapping patches lie on a surface of two coordinates, row and column, bent by the image's detail and
    blurred by its noise: values are low, and only the order of those that were measured alike means something.

    Args:
        image_layer: B (B, 3, H, W) in [0, 1], finite.
        rain_layer: R (B, 1 or 3, H, W) in [0, 1], finite.
        patch_size: Side of a patch in pixels.
        search_size: Side of the window of candidate centres in pixels.
        k: Patches of a set, at least 8; the estimate is rough below 64.
        num_queries: Query patches per image and layer.
        flat: Standard deviation within a patch up to which it is no query.
        generator: Source of the randomness; torch's global one when None.

    Returns:
        The dimensions of the image layer and of the rain layer; NaN for a layer without any set to measure, such as
        rain that is nearly 0 everywhere.

    Raises:
        ValueError: If ``k`` is below 8 or more than a window in a corner has patches, or an image is smaller than a
            patch.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> noise = torch.rand(1, 3, 64, 64, generator=generator)
        >>> stripes = (torch.arange(64) / 9).sin().expand(1, 1, 64, 64) + 0.01 * noise[:, :1]
        >>> image, rain = layer_dimensions(noise, stripes, generator=generator)
        >>> round(image, 1), round(rain, 1)
        (41.1, 7.4)
    """
    if k < 8:
        raise ValueError(f"k must be at least 8, got {k}; 64 or more give estimates that can be compared")
    found = []
    for layer in (image_layer, rain_layer):
        inverses = []
        textured = patch_deviation(layer, patch_size) > flat
        for image, allowed in zip(layer.split(1), textured, strict=True):
            queries = textured_centres(allowed, num_queries, patch_size, generator=generator)
            if len(queries):
                sets = neighbour_sets(image, queries, patch_size=patch_size, search_size=search_size, k=k)
                inverses.append(1 / mle_dimension(nearest_distances(sets, k // 4), k // 4))
        found.append((1 / torch.cat(inverses).nanmean()).item() if inverses else math.nan)
    return found[0], found[1]


def neighbour_sets(image: Tensor, queries: Tensor, *, patch_size: int, search_size: int, k: int) -> Tensor:
    """Patches of the neighbours of queries (Q, 2) in an image (1, C, H, W): (Q, k, C * patch_size²), nearest first."""
    centres, _ = nonlocal_neighbours(image, queries[None], patch_size=patch_size, search_size=search_size, k=k)
    return gather_patches(image, centres.flatten(1, 2), patch_size).view(len(queries), k, -1)


def dimension_ratio(d_image: float, d_rain: float) -> float:
    """How many times the image layer's dimension is the rain layer's, as of `layer_dimensions`.

    Meant for temperatures of the contrastive losses, image over rain (ours).

    Returns:
        The ratio in [1/4, 4]; 1 where either is unknown (NaN), 0 or both are infinite.

    Example:
        >>> dimension_ratio(6.0, 4.0), dimension_ratio(1.0, 20.0), dimension_ratio(5.0, float("nan"))
        (1.5, 0.25, 1.0)
    """
    if not (d_image > 0 and d_rain > 0) or (math.isinf(d_image) and math.isinf(d_rain)):
        return 1.0
    return min(max(d_image / d_rain, 1 / LARGEST_RATIO), LARGEST_RATIO)
