"""What of an extracted rain layer looks like rain: thin bright streaks along one direction (ours)."""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

WIDEST = 9  # pixels: wider light is no streak
SHORTEST, LONGEST = 13, 48  # pixels: shorter is texture, longer a cable or a pole
ANGLES = range(-80, 100, 10)  # degrees from the vertical; lines of the shortest length differ no finer
STEEPEST = 60  # degrees: rain that is nearer to the horizontal is somebody's roof
EXCESS = 1.0  # of the energy along the rain's direction over the median of all, relative to it
FAINTEST = 0.0015  # mean of a layer: with less than this there is nothing to learn from


class GatedRain(NamedTuple):
    """What the gate let pass."""

    rain: Tensor  # (B, 1, H, W); zero where a layer does not look like rain
    passed: Tensor  # (B,) bool: which layers look like rain


def keep_streaks(rain: Tensor) -> GatedRain:
    """Keep of rain layers what is positive, grey, thin, elongated, and along the dominant direction of its layer.

    Edges and texture, which networks take for rain too, have many directions; cables and poles are longer than
    streaks. A layer without one plain, steep direction does not pass at all.

    Args:
        rain: Rain layers R (B, 1 or 3, H, W) in [-1, 1].

    Example:
        >>> rain = torch.zeros(1, 1, 40, 40)
        >>> rain[..., 5:25, 8] = rain[..., 12:32, 20] = 0.3  # streaks
        >>> rain[..., 35, 10:13] = 0.3  # a speck
        >>> kept = keep_streaks(rain)
        >>> bool(kept.passed), float(kept.rain[..., 15, 8]), float(kept.rain[..., 35, 11])
        (True, 0.30000001192092896, 0.0)
    """
    grey = rain.amin(dim=1, keepdim=True).clamp_min(0)
    narrower = -F.max_pool2d(-grey, WIDEST, stride=1, padding=WIDEST // 2)
    thin = grey - F.max_pool2d(narrower, WIDEST, stride=1, padding=WIDEST // 2)
    lines = torch.stack([_opened(thin, _line(angle, SHORTEST)) for angle in ANGLES])
    energy = lines.mean(dim=(2, 3, 4))  # (angles, B)
    best = energy.argmax(dim=0)
    median = energy.sort(dim=0).values[(len(ANGLES) - 1) // 2]  # `median` has no deterministic kernel on a GPU
    excess = energy.amax(dim=0) - median
    own = torch.arange(len(best), device=rain.device)
    core = torch.stack([lines[(best + turn) % len(ANGLES), own] for turn in (-1, 0, 1)]).amax(dim=0)
    # Poles are searched for around the direction of each layer alone, as they are where they do most harm.
    long = torch.stack([
        torch.stack([_opened(core[place : place + 1], _line(ANGLES[(int(angle) + turn) % len(ANGLES)], LONGEST))[0]
                     for turn in (-1, 0, 1)]).amax(dim=0)
        for place, angle in enumerate(best.tolist())
    ])  # fmt: skip
    core = core * (long < 0.5 * core)
    kept = torch.minimum(thin, F.max_pool2d(core, 3, stride=1, padding=1))
    steep = torch.tensor([abs(angle) <= STEEPEST for angle in ANGLES], device=rain.device)[best]
    passed = steep & (excess > EXCESS * median) & (kept.mean(dim=(1, 2, 3)) > FAINTEST)
    return GatedRain(kept * passed.view(-1, 1, 1, 1), passed)


_Offsets = tuple[tuple[int, int], ...]


@cache
def _line(angle: int, length: int) -> _Offsets:
    """Pixels of a line through (0, 0), (row, column), by its angle from the vertical in degrees."""
    radians, reach = math.radians(angle), (length - 1) / 2
    steps = [reach * (2 * step / (4 * length) - 1) for step in range(4 * length + 1)]
    return tuple(sorted({(round(t * math.cos(radians)), round(t * math.sin(radians))) for t in steps}))


def _opened(images: Tensor, offsets: _Offsets) -> Tensor:
    """Keep what a line fits into."""
    return _largest(-_largest(-images, offsets), offsets)  # lines are symmetric


def _largest(images: Tensor, offsets: _Offsets) -> Tensor:
    """The largest value on a line through each pixel; what is outside does not count."""
    reach = max(max(map(abs, offset)) for offset in offsets)
    padded = F.pad(images, (reach, reach, reach, reach), value=-torch.inf)
    height, width = images.shape[-2:]
    result = images
    for down, right in offsets:
        moved = padded[..., reach + down : reach + down + height, reach + right : reach + right + width]
        result = torch.maximum(result, moved)
    return result
