"""The intrinsic dimensions of both layers during training: for the log, and for what follows them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nlcl_plugin.ops import dimension_ratio, layer_dimensions
from nlcl_plugin.rain.batch_random import BatchRandom

NAMES = ("dim_image", "dim_rain", "log_dim_ratio")


def measure_dimensions(image: Tensor, rain: Tensor, random: BatchRandom) -> dict[str, Tensor]:
    """Measure the layers of a part of a batch, each image by itself.

    Args:
        image: Image layers B (B, 3, H, W).
        rain: Rain layers R (B, C, H, W).
        random: Where query patches are drawn from.

    Returns:
        Means over the images, by `NAMES`: both dimensions, 0 for a layer without texture, and the logarithm of their
        ratio within its limits, 0 where it is unknown.
    """
    seeds = random.each(lambda n: torch.randint(2**62, (n,), generator=random.generator), torch.device("cpu"))
    found = []
    for b, r, seed in zip(image.float().split(1), rain.float().split(1), seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        d_image, d_rain = layer_dimensions(torch.nan_to_num(b), torch.nan_to_num(r), generator=generator)
        known = [d if math.isfinite(d) else 0.0 for d in (d_image, d_rain)]
        found.append([*known, math.log(dimension_ratio(d_image, d_rain))])
    means = torch.tensor(found, device=image.device).mean(dim=0)
    return dict(zip(NAMES, means.unbind(), strict=True))
