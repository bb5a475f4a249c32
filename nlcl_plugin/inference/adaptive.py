"""How much rain is taken: more where it rains everywhere, and beyond R only what is brighter than around it (ours).

A network takes in part what it is unsure of. The whole image knows more: where streaks are found nearly everywhere it
rains, and what is left of them goes too; where they are found here and there, most are cables, twigs and letters. What
is taken beyond the network's own R is bounded by what still is brighter than its surroundings, so that streaks do not
become dark ones.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SUSPECT = 0.02  # of R: what counts as found
CELLS = 8  # per side: an image has rain in a cell of this grid
LEAST = 0.01  # if more than this fraction of the cell's pixels is found
AMOUNTS = (0.7, 0.9)  # fractions of cells with rain; see docs/real_rain.md for those of photographs
FACTORS = (1.25, 4.0)  # on R up to the first amount, and from the second on
THIN = 5  # pixels: what is thinner can be a rest of a streak


def rain_amount(rain: Tensor) -> Tensor:
    """How much of each image has rain: the fraction (B,) of cells in which more than `LEAST` of the pixels is found.

    `rain` is what a network takes for rain, R (B, 1 or 3, H, W), of the whole image.
    """
    found = (rain.mean(dim=1, keepdim=True) > SUSPECT).to(rain.dtype)
    return (F.adaptive_avg_pool2d(found, CELLS) > LEAST).to(rain.dtype).mean(dim=(1, 2, 3))


def factor_of_amount(rain: Tensor) -> Tensor:
    """The factor (B,) on R (B, 1 or 3, H, W) of the whole image that follows from its amount: from 1.25 to 4."""
    factors = np.interp(rain_amount(rain).float().cpu().numpy(), AMOUNTS, FACTORS)
    return torch.from_numpy(factors).to(rain)


def strengthen(rainy: Tensor, rain: Tensor, factor: Tensor, scale: float = 1.0) -> Tensor:
    """Multiply rain by a factor, but take no more than what is brighter than its surroundings.

    What exceeds R is at most the bright detail of O - R that is thinner than `THIN` pixels (its white top-hat: what a
    morphological opening by a square takes away).

    Args:
        rainy: O (B, 3, H, W), in [0, 1].
        rain: What a network takes for rain, R (B, 1 or 3, H, W).
        factor: One per image (B,), above 0.
        scale: How much larger the image is than the copy in which R was found.

    Returns:
        The rain to subtract, of the shape of R; `factor * rain` for a factor up to 1.
    """
    factor = factor.view(-1, 1, 1, 1)
    left = rainy - rain
    side = 2 * round(scale * (THIN - 1) / 2) + 1
    detail = left - _dilated(-_dilated(-left, side), side)
    if rain.shape[1] == 1:
        detail = detail.amin(dim=1, keepdim=True)
    more = torch.minimum((factor - 1) * rain.clamp(min=0), detail)
    return torch.where(factor > 1, rain + more, factor * rain)


def _dilated(image: Tensor, side: int) -> Tensor:
    """The maximum of the square of this side around each pixel: each step doubles the window, up to the side."""
    radius = side // 2
    image = F.pad(image, (radius, radius, radius, radius), mode="replicate")
    for dim in (-2, -1):
        window = 1
        while window < side:
            step = min(window, side - window)
            length = image.shape[dim] - step
            image = torch.maximum(image.narrow(dim, 0, length), image.narrow(dim, step, length))
            window += step
    return image
