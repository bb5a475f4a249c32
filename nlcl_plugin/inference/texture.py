"""Where a network takes nearly everything for rain there is texture, such as leaves or a gate (ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SUSPECT = 0.02  # of R: what counts as taken, with a rim of one pixel
SIDE = 25  # pixels: of the neighbourhood
DENSEST = 0.55  # fraction of it; streaks leave room between them


def spare_texture(rain: Tensor) -> Tensor:
    """Set rain to 0 where more than `DENSEST` of the neighbourhood is taken for rain.

    Args:
        rain: What a network takes for rain, R (B, 1 or 3, H, W).

    Returns:
        R without texture, same shape; what is at most `SUSPECT`, and away from more, stays.

    Example:
        >>> rain = torch.zeros(1, 1, 60, 90)
        >>> rain[..., 10:50, 10] = rain[..., 40:90] = 0.3  # a streak, and texture
        >>> [float(spare_texture(rain)[0, 0, 30, column]) for column in (10, 70)]
        [0.30000001192092896, 0.0]
    """
    taken = F.max_pool2d((rain.mean(dim=1, keepdim=True) > SUSPECT).to(rain.dtype), 3, stride=1, padding=1)
    density = F.avg_pool2d(taken, SIDE, stride=1, padding=SIDE // 2, count_include_pad=False)
    return torch.where((taken > 0) & (density > DENSEST), 0.0, rain)
