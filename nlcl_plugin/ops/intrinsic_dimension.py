"""Intrinsic dimension of sets of points: how many coordinates it takes to say where on their set a point lies.

Both estimators look at distances to near neighbours only, whose growth with their rank tells the dimension:

- ``mle``: Levina and Bickel, "Maximum Likelihood Estimation of Intrinsic Dimension", NIPS 2004. With the distances
  T_1 <= ... <= T_k of a point to its neighbours, 1 / m_k is the mean of log(T_k / T_j) over j < k. The *inverses* are
  averaged over the points (MacKay and Ghahramani, "Comments on 'Maximum Likelihood Estimation of Intrinsic Dimension'
  by E. Levina and P. Bickel", 2005), which is the likelihood's maximum for all points together and free of the upward
  bias that the mean of m_k has at small k.
- ``two_nn``: Facco, d'Errico, Rodriguez and Laio, "Estimating the intrinsic dimension of datasets by a minimal
  neighborhood information", Scientific Reports 7, 2017. The ratios T_2 / T_1 follow a Pareto law whose exponent is the
  dimension: the slope through the origin of -log(1 - F) over log(T_2 / T_1), where F is the share of the ratios up to
  this one. The largest ratios are left out of the fit.

Both underestimate high dimensions, the more the fewer the points: a cube of 32 dimensions that 1,024 points are drawn
from has nearly all of them at its border.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

METHODS = ("mle", "two_nn")

_BLOCK = 1 << 24  # distances at a time


@torch.no_grad()
def intrinsic_dimension(
    points: Tensor, *, method: str = "mle", k: int | tuple[int, int] = (10, 20), discard: float = 0.1
) -> Tensor:
    """Estimate the intrinsic dimension of sets of points.

    Levina-Bickel with MacKay and Ghahramani's averaging, or TwoNN (Facco et al. 2017); see the module for both.
    Only ratios of distances matter: shifts, rotations and scale do not.

    **Repeated points count once.** A distance of 0 would make every estimate 0. A set with too few distinct points has
    no estimate: its value is NaN. Where all neighbours of all points are at one distance (the corners of a simplex),
    the value is infinite. Points on a grid, such as 8-bit values of flat areas, have many equal distances and look
    high-dimensional at small ``k``.

    Args:
        points: One set (N, D) or sets of equal size (B, N, D), floating point and finite. float16 and bfloat16 are
            taken as float32. Memory grows with N squared.
        method: `mle` or `two_nn`.
        k: Neighbours of each point for `mle`: a number of at least 2, or a range (k1, k2), both inclusive, over which
            the estimates are averaged as in Levina and Bickel. Not used by `two_nn`.
        discard: Share of the largest ratios that `two_nn` leaves out of its fit, from 0 to below 1; the paper's 0.1.
            The largest one is left out in any case, as its -log(1 - F) is infinite. Not used by `mle`.

    Returns:
        The estimates, () for one set or (B,), of the dtype of the points (float32 for half precision).

    Raises:
        TypeError: If the points are no floating-point tensor, or ``k`` is no whole number.
        ValueError: If a shape, the method, ``k`` or ``discard`` is wrong, a value is not finite, or a set has not more
            than ``k`` points (`mle`) or fewer than 3 (`two_nn`).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> plane = torch.rand(1000, 2, generator=generator) @ torch.randn(2, 50, generator=generator)
        >>> round(intrinsic_dimension(plane).item(), 1), round(intrinsic_dimension(plane, method="two_nn").item(), 1)
        (1.9, 2.1)
        >>> cube = torch.rand(1000, 16, generator=generator)  # too few points for so high a dimension
        >>> round(intrinsic_dimension(cube).item(), 1), round(intrinsic_dimension(cube, method="two_nn").item(), 1)
        (12.0, 12.7)
    """
    low, high = _checked(points, method, k, discard)
    sets = points if points.ndim == 3 else points[None]
    if method == "mle":
        dimension = mle_dimension(nearest_distances(sets, high), (low, high))
    else:
        dimension = two_nn_dimension(nearest_distances(sets, 2), discard)
    dimension = dimension.to(points.dtype if points.dtype == torch.float64 else torch.float32)
    return dimension if points.ndim == 3 else dimension[0]


def nearest_distances(points: Tensor, k: int) -> Tensor:
    """Distances of each point to its nearest neighbours among the distinct points of its set.

    A point that equals an earlier one is a repeat: it is nobody's neighbour and has none.

    Args:
        points: Sets (B, N, D), floating point and finite.
        k: Number of neighbours, from 1 to N - 1.

    Returns:
        L2 distances (B, N, k), float64, nearest first, in units that differ from set to set; never 0. NaN in the rows
        of repeats, infinite where a set has not so many distinct points.
    """
    if points.dtype != torch.float64:
        points = points.float()
    num = points.shape[1]
    found = points.new_empty(*points.shape[:2], k, dtype=torch.float64)
    earlier = torch.ones(num, num, dtype=torch.bool, device=points.device).tril_(-1)
    step = max(1, _BLOCK // num**2)
    for start in range(0, len(points), step):
        distances = _distances(points[start : start + step])
        repeats = ((distances == 0) & earlier).any(-1)
        distances.diagonal(dim1=1, dim2=2).fill_(math.inf)
        distances.masked_fill_(repeats[:, None], math.inf)
        nearest = distances.topk(k, largest=False).values
        found[start : start + step] = nearest.masked_fill_(repeats[..., None], math.nan)
    return found


def mle_dimension(distances: Tensor, k: int | tuple[int, int]) -> Tensor:
    """Levina-Bickel estimate from distances to neighbours, inverses averaged over the points.

    Args:
        distances: Of `nearest_distances` (B, N, K).
        k: Neighbours taken, from 2 to K: a number, or an inclusive range over which estimates are averaged.

    Returns:
        Estimates (B,), float64; NaN for sets without so many distinct points.
    """
    low, high = (k, k) if isinstance(k, int) else k
    logs = distances[..., :high].log()
    ranks = torch.arange(low - 1, high, device=logs.device)  # of T_k, counted from 0: also the number of T_j below it
    below = logs.cumsum(-1)[..., low - 2 : high - 1] / ranks
    inverse = _rounded(logs[..., low - 1 :] - below).nanmean(1)
    short = torch.isinf(logs).any(-1).any(-1)
    return (1 / inverse).mean(-1).masked_fill(short, math.nan)


def two_nn_dimension(distances: Tensor, discard: float = 0.1) -> Tensor:
    """TwoNN estimate from distances to neighbours.

    Args:
        distances: Of `nearest_distances` (B, N, K), K at least 2.
        discard: Share of the largest ratios to leave out.

    Returns:
        Estimates (B,), float64; NaN for sets of fewer than 3 distinct points.
    """
    near = distances[..., :2]
    # NaN, the ratio of repeats, is sorted behind all others.
    x = _rounded(near[..., 1].log() - near[..., 0].log()).sort(-1).values
    count = (~near[..., 0].isnan()).sum(-1).double()
    kept = (count * (1 - discard)).floor().minimum(count - 1)
    rank = torch.arange(1, x.shape[-1] + 1, device=x.device, dtype=torch.float64)
    used = rank <= kept[:, None]
    y = -torch.log1p(-rank / count[:, None].clamp(min=1))
    x, y = x.where(used, 0), y.where(used, 0)
    level = (x * x).sum(-1)
    slope = torch.where(level > 0, (x * y).sum(-1) / level, math.inf)
    return slope.masked_fill((count < 3) | (kept < 1), math.nan)


def _rounded(difference: Tensor) -> Tensor:
    """Differences of logarithms, at least 0, where what is left of equal distances by rounding is 0 too."""
    return difference.masked_fill(difference < 1e-12, 0.0)


def _distances(points: Tensor) -> Tensor:
    """All distances (B, N, N) within sets (B, N, D), each set in a unit of its own; equal points are at distance 0."""
    if points.dtype == torch.float64:
        return _direct_distances(points)
    # |a|^2 - 2 a.b + |b|^2 of float32 values in float64 is a matrix product, ten times as fast for patches of colour.
    centred = points.double()
    centred = centred - centred.mean(1, keepdim=True)
    energy = centred.square().sum(-1)
    squares = torch.baddbmm(energy[:, None] + energy[..., None], centred, centred.mT, alpha=-2)
    # But it loses small distances: a set with one that could be off by more than 2^-17 of its square is done directly.
    error = (points.shape[-1] + 8) * 2.0**-51 * energy.amax(-1)
    others = ~torch.eye(points.shape[1], dtype=torch.bool, device=points.device)
    vague = ((squares <= error[:, None, None] * 2**17) & others).any(-1).any(-1)
    distances = squares.clamp_(min=0).sqrt_()
    if bool(vague.any()):
        distances[vague] = _direct_distances(points[vague]).double()
    return distances


def _direct_distances(points: Tensor) -> Tensor:
    # A power of two for each set, so that no square overflows or vanishes, changes nothing else.
    limit = 1000 if points.dtype == torch.float64 else 100
    exponent = torch.frexp(points.abs().amax((1, 2), keepdim=True)).exponent.clamp(-limit, limit)
    scaled = points * torch.ldexp(torch.ones_like(exponent, dtype=points.dtype), -exponent)
    return torch.cdist(scaled, scaled, compute_mode="donot_use_mm_for_euclid_dist")


def _checked(points: Tensor, method: str, k: int | tuple[int, int], discard: float) -> tuple[int, int]:
    """Check the arguments; the range of k."""
    if not isinstance(points, Tensor) or not points.is_floating_point():
        kind = points.dtype if isinstance(points, Tensor) else type(points).__name__
        raise TypeError(f"points must be a floating-point tensor, got {kind}")
    if points.ndim not in (2, 3) or 0 in points.shape[1:]:
        raise ValueError(f"points must be (N, D) or (B, N, D), got shape {tuple(points.shape)}")
    if not bool(points.isfinite().all()):
        raise ValueError("points must be finite, got NaN or infinity")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"discard must be from 0 to below 1, got {discard}")
    low, high = k if isinstance(k, tuple | list) and len(k) == 2 else (k, k)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise TypeError(f"k must be a whole number or a range (k1, k2) of whole numbers, got {k!r}")
    if not 2 <= low <= high:
        raise ValueError(f"k must be at least 2, or a range (k1, k2) with 2 <= k1 <= k2, got {k}")
    needed = high + 1 if method == "mle" else 3
    if points.shape[-2] < needed:
        use = f"k = {k}" if method == "mle" else "two_nn"
        raise ValueError(
            f"{use} needs sets of at least {needed} points, got {points.shape[-2]}; "
            f"give more points{' or a smaller k' if method == 'mle' else ''}"
        )
    return low, high
