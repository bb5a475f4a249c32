"""Layer contrast on composites (ours): what is compared where rain was laid on known clean images.

On a rainy photograph nobody knows what B and R should be, and texture that leaked into R confirms itself. On a
composite N = clip(C + R) both are known. An image patch of the derained N is drawn to the clean patch under it and to
that patch's non-local neighbours in C, and pushed from the same patch with rain left in or taken out twice; a rain
patch is drawn to the rain that was laid and pushed from the same rain with image texture in it or taken from it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nlcl_plugin.config.train_options import CompositePatches
from nlcl_plugin.losses import References
from nlcl_plugin.ops import nonlocal_neighbours
from nlcl_plugin.ops.patch_sets import gather_patches
from nlcl_plugin.rain.batch_random import BatchRandom


class Compared(NamedTuple):
    """Arguments of `AsymmetricNLCLLoss` with one tap: grey pixels."""

    image: list[Tensor]
    rain: list[Tensor]
    image_references: list[References]
    rain_references: list[References]


def compare_composites(
    derained: Tensor, composite: Tensor, clean: Tensor, options: CompositePatches, random: BatchRandom
) -> Compared:
    """Collect anchors, positives and negatives for the loss; only the anchors have gradients.

    Args:
        derained: Image layers of the composites (B, 3, H, W).
        composite: Clean images with rain laid on them (B, 3, H, W), RGB in [0, 1].
        clean: The clean images (B, 3, H, W), RGB in [0, 1].
        options: How many patches, and from where.
        random: Where places are drawn from.
    """
    size, p = (clean.shape[-2], clean.shape[-1]), options.patch_size
    clean_grey, laid = (x.detach().mean(dim=1, keepdim=True) for x in (clean, composite - clean))
    derained_grey = derained.mean(dim=1, keepdim=True)
    drawn = random.centres(options.num_candidates * options.num_queries, size, p, clean.device)
    rainiest = gather_patches(laid, drawn, p).mean(dim=-1).topk(options.num_queries, dim=1).indices
    places = drawn.gather(1, rainiest[..., None].expand(-1, -1, 2))

    image, rain = gather_patches(clean_grey, places, p), gather_patches(laid, places, p)  # (B, Q, D)
    others = torch.stack([rain.roll(step, dims=1) for step in range(options.num_negatives)], dim=2)
    textures = torch.stack([image.roll(step, dims=1) for step in range(options.num_negatives)], dim=2)
    textures = textures - textures.mean(dim=-1, keepdim=True)
    anchors_image = gather_patches(derained_grey, places, p)
    anchors_rain = gather_patches(composite.mean(dim=1, keepdim=True) - derained_grey, places, p)
    return Compared(
        [anchors_image],
        [anchors_rain],
        [References(_neighbours(clean, clean_grey, places, options, random), _both_ways(image, others, options))],
        [References(rain[:, :, None], _both_ways(rain, textures, options))],
    )


def _both_ways(patches: Tensor, layers: Tensor, options: CompositePatches) -> Tensor:
    """Patches (B, Q, D) with some of the other layer (B, Q, M, D) in them, and with as much of it taken out."""
    changes = options.strength * layers
    return patches[:, :, None] + torch.cat((changes, -changes), dim=2)


def _neighbours(
    clean: Tensor, clean_grey: Tensor, places: Tensor, options: CompositePatches, random: BatchRandom
) -> Tensor:
    """Clean patches (B, Q, K, D) at the places themselves and at their non-local neighbours."""
    k, p = options.num_positives, options.patch_size
    if options.neighbours == "random":
        size = (clean.shape[-2], clean.shape[-1])
        drawn = random.centres(places.shape[1] * (k - 1), size, p, clean.device)
        found = torch.cat((places[:, :, None], drawn.unflatten(1, (places.shape[1], k - 1))), dim=2)
    elif k == 1:
        found = places[:, :, None]
    else:
        found, _ = nonlocal_neighbours(
            torch.nan_to_num(clean), places, patch_size=p, search_size=options.search_size, k=k
        )
    return gather_patches(clean_grey, found.flatten(1, 2), p).unflatten(1, found.shape[1:3])
