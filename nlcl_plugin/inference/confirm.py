"""Rain that an image's own non-local neighbours confirm: structure repeats, a streak does not (ours).

The idea is that of the paper (arXiv 2203.11509): patches of the image layer have similar patches near them. Here it
judges what a network takes for rain. Where its neighbours, found without the pixels in question, are as bright as the
pixel itself, it is structure: a bar of a gate, a gap between leaves. Where they are darker, something was in front.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nlcl_plugin.inference.any_size import run_tiled

SUSPECT = 0.02  # of R: what is judged, and left out of the comparison of patches with a rim of one pixel
PATCH = 25  # pixels, the side: wide enough to show mostly what is beside a streak
REACH = 24  # pixels: how far away neighbours are searched for, in both directions
STEP = 3  # pixels from one place to the next
NEAREST = 8  # pixels: nearer ones may show the same streak
NEIGHBOURS = 16  # the most similar, whose median is compared
LEAST = 0.3  # fraction of the pixels of two patches that must be comparable; in texture most are suspect
TILE = 320  # pixels: distances to all places are kept for the suspect pixels of one tile


def confirm_rain(rainy: Tensor, rain: Tensor, strength: float = 1.0) -> Tensor:
    """Reduce rain to what the neighbours of each pixel confirm, in bounded memory.

    Args:
        rainy: Rainy images O (B, 3, H, W), RGB in [0, 1].
        rain: What a network takes for rain, R (B, 1 or 3, H, W).
        strength: A factor on R.

    Returns:
        `strength` R, each pixel multiplied by a factor in [0, 1]: how much of its brightness (the mean over the
        channels) O has above its neighbours. It is 1 more than a pixel away from all R above `SUSPECT`, and 0 where
        nothing can be compared, as where nearly all is suspect: in texture.
    """
    both = torch.cat((rainy, rain), dim=1)
    margin = REACH + PATCH // 2 + 1

    def reduced(tile: Tensor) -> Tensor:
        return torch.cat((tile[:, :3], tile[:, 3:] * _factor(tile[:, :3], tile[:, 3:], strength)), dim=1)

    kept = torch.cat([run_tiled(reduced, one[None], reach=margin, tile=TILE)[:, 3:] for one in both])
    return strength * kept


def _factor(rainy: Tensor, rain: Tensor, strength: float) -> Tensor:
    """The factors (1, 1, H, W) of one image or tile."""
    grey, light = rainy.mean(dim=1)[0], rain.mean(dim=1)[0]
    suspect = F.max_pool2d((light > SUSPECT).float()[None], 3, stride=1, padding=1)[0] > 0
    rows, columns = torch.nonzero(suspect, as_tuple=True)
    if not len(rows):
        return torch.ones_like(rain[:, :1])
    usable = (~suspect).to(grey.dtype)
    height, width = grey.shape
    padding = (REACH, REACH, REACH, REACH)
    colours = F.pad(rainy, padding, mode="replicate")[0]
    wide_grey, wide_usable = F.pad(grey[None, None], padding, mode="replicate")[0, 0], F.pad(usable, padding)
    places = _places()
    distances = grey.new_full((len(places), len(rows)), torch.inf)
    values = grey.new_empty(len(places), len(rows))
    for number, (down, right) in enumerate(places):
        window = (slice(REACH + down, REACH + down + height), slice(REACH + right, REACH + right + width))
        comparable = usable * wide_usable[window]
        difference = (rainy[0] - colours[:, window[0], window[1]]).square().sum(dim=0) * comparable
        sums = _patch_sums(torch.stack((difference, comparable)))[:, rows, columns]
        known = (sums[1] >= LEAST * PATCH**2) & (wide_usable[window][rows, columns] > 0)
        distances[number] = torch.where(known, sums[0] / sums[1].clamp_min(1), torch.inf)
        values[number] = wide_grey[window][rows, columns]
    nearest, which = distances.topk(min(NEIGHBOURS, len(places)), dim=0, largest=False)
    found = values.gather(0, which).masked_fill(nearest == torch.inf, torch.nan)
    behind = found.nanmedian(dim=0).values
    above = (grey[rows, columns] - behind).nan_to_num(0.0) / (strength * light[rows, columns]).clamp_min(1e-4)
    factor = torch.ones_like(grey)
    factor[rows, columns] = above.clamp(0, 1)
    return factor[None, None]


def _places() -> list[tuple[int, int]]:
    steps = range(-REACH, REACH + 1, STEP)
    return [(down, right) for down in steps for right in steps if down**2 + right**2 >= NEAREST**2]


def _patch_sums(images: Tensor) -> Tensor:
    """Sums (N, H, W) over the patch around each pixel; along one dimension at a time, which keeps rounding small."""
    for dim in (-2, -1):
        half = PATCH // 2
        ends = (0, 0, half + 1, half) if dim == -2 else (half + 1, half)
        total = F.pad(images, ends).cumsum(dim=dim)
        length = images.shape[dim]
        images = total.narrow(dim, PATCH, length) - total.narrow(dim, 0, length)
    return images
