"""Rain falls everywhere, structure is in places: how much is taken follows how much of an image has rain (ours).

A network that was trained on small crops judges each streak by what is around it, and takes in part what it is unsure
of. The whole image knows more: where streaks are found nearly everywhere it rains, and they are taken in full; where
they are found here and there, most are cables, twigs and letters.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SUSPECT = 0.02  # of R: what counts as found
CELLS = 8  # per side: an image has rain in a cell of this grid
LEAST = 0.01  # if more than this fraction of the cell's pixels is found
AMOUNTS = (0.5, 0.8, 0.95)  # fractions of cells with rain; nine of ten clean photographs have at most 0.85
FACTORS = (0.8, 1.25, 1.75)  # on R at these amounts
MOST = 2.0  # of factor and strength together: beyond it streaks become dark ones

SIDE = 25  # pixels: the neighbourhood in which texture is looked for
DENSEST = 0.55  # fraction of it; streaks leave room between them, unless there are very many
MANY = (0.85, 0.95)  # from the first amount on that limit rises, to 1 at the second


def rain_amount(rain: Tensor) -> Tensor:
    """Measure how much of each image has rain.

    Args:
        rain: What a network takes for rain, R (B, 1 or 3, H, W), of the whole image.

    Returns:
        The fraction (B,) of the `CELLS` x `CELLS` cells in which more than `LEAST` of the pixels exceed `SUSPECT`.
    """
    return (F.adaptive_avg_pool2d(_found(rain), CELLS) > LEAST).to(rain.dtype).mean(dim=(1, 2, 3))


def _found(rain: Tensor) -> Tensor:
    """Where there is rain (B, 1, H, W): 1 or 0."""
    return (rain.mean(dim=1, keepdim=True) > SUSPECT).to(rain.dtype)


def adapt_to_amount(rain: Tensor, strength: float = 1.0) -> Tensor:
    """Multiply rain by a factor that follows its amount, and set it to 0 where there is texture.

    Texture, such as leaves or a fence, is where more than `DENSEST` of the neighbourhood is found.

    Args:
        rain: What a network takes for rain, R (B, 1 or 3, H, W), of the whole image.
        strength: Multiplies the factor, up to `MOST` or, if that is more, to the strength itself.

    Returns:
        The adapted R, same shape. The factor is the same for the whole image: from 0.8 to 1.75 times the strength.
    """
    amount = rain_amount(rain).float().cpu().numpy()
    factor, limit = (
        torch.from_numpy(np.interp(amount, *points)).to(rain).view(-1, 1, 1, 1)
        for points in ((AMOUNTS, FACTORS), (MANY, (DENSEST, 1.0)))
    )
    found = F.max_pool2d(_found(rain), 3, stride=1, padding=1)
    density = found
    for window in ((SIDE, 1), (1, SIDE)):  # one dimension at a time is faster
        padding = (window[0] // 2, window[1] // 2)
        density = F.avg_pool2d(density, window, stride=1, padding=padding, count_include_pad=False)
    factor = (strength * factor).clamp(max=max(MOST, strength))
    return factor * torch.where((found > 0) & (density > limit), 0.0, rain)
