"""Intrinsic dimension of the image layer and the rain layer, from sets of non-local neighbours; cheap enough to log.

The measure on which the asymmetry of NLCL rests (Chang et al., IEEE TPAMI 2024, arXiv 2211.00837): image patches that
are alike are said to have a higher intrinsic dimension than rain patches. How it is measured here is ours, and
docs/intrinsic_dimension.md has what came out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nlcl_plugin.ops.intrinsic_dimension import mle_dimension, nearest_distances
from nlcl_plugin.ops.patch_search import nonlocal_neighbours
from nlcl_plugin.ops.patch_sets import gather_patches, patch_deviation, textured_centres

FLAT = 1 / 255
"""Standard deviation up to which a patch counts as flat: one step of 8 bits."""


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
    """Estimate the intrinsic dimension of non-local neighbours in both layers, measured alike.

    In each layer query patches are drawn from those that are not flat; the set of a query is its ``k`` nearest
    patches in its search window, itself included. The estimate on a set is Levina and Bickel's over the nearest k // 4
    of its patches (see :func:`intrinsic_dimension`); the inverses are averaged over all sets of the batch. Sets that
    lie for the most part in flat areas, with no more than k // 4 distinct patches, are left out.

    ``k`` and all else are the same for both layers: the estimate depends on them, so only numbers that were measured
    alike can be compared. Windows of overlapping patches lie on a surface of two coordinates, row and column, bent by
    the image's detail and blurred by its noise: values are low, and only their order means something.

    Args:
        image_layer: B (B, 3, H, W) in [0, 1], finite.
        rain_layer: R (B, 1 or 3, H, W) in [0, 1], finite.
        patch_size: Side of a patch in pixels.
        search_size: Side of the window of candidate centres in pixels.
        k: Patches of a set, at least 8; the estimate is rough below 64.
        num_queries: Query patches an image and layer.
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


def neighbour_sets(
    image: Tensor, queries: Tensor, *, patch_size: int, search_size: int, k: int, remove_mean: bool = False
) -> Tensor:
    """Patches of the non-local neighbours of queries in one image, as sets of points.

    Args:
        image: (1, C, H, W), finite.
        queries: Integer centres (Q, 2).
        patch_size: Side of a patch in pixels.
        search_size: Side of the window of candidate centres in pixels.
        k: Neighbours of each query, itself included.
        remove_mean: As of `gather_patches`; neighbours are found with the mean.

    Returns:
        (Q, k, C * patch_size * patch_size), nearest first.
    """
    centres, _ = nonlocal_neighbours(image, queries[None], patch_size=patch_size, search_size=search_size, k=k)
    patches = gather_patches(image, centres.flatten(1, 2), patch_size, remove_mean=remove_mean)
    return patches.view(len(queries), k, -1)


def dimension_ratio(d_image: float, d_rain: float, *, limit: float = 4.0) -> float:
    """How many times the image layer's dimension is the rain layer's, within limits.

    Meant for temperatures of the contrastive losses, image over rain (ours).

    Args:
        d_image: Of `layer_dimensions`.
        d_rain: Of `layer_dimensions`.
        limit: Largest ratio, at least 1; the smallest is its inverse.

    Returns:
        The ratio in [1 / limit, limit]; 1 where either is unknown (NaN), 0 or both are infinite.

    Raises:
        ValueError: If the limit is below 1.

    Example:
        >>> dimension_ratio(6.0, 4.0), dimension_ratio(1.0, 20.0), dimension_ratio(5.0, float("nan"))
        (1.5, 0.25, 1.0)
    """
    if not limit >= 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    if not (d_image > 0 and d_rain > 0) or (math.isinf(d_image) and math.isinf(d_rain)):
        return 1.0
    return min(max(d_image / d_rain, 1 / limit), limit)
