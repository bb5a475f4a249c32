"""Pseudo-pairs (ours): extracted rain, varied and laid on unrelated clean images, with the clean image as target."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nlcl_plugin.losses import lay_rain
from nlcl_plugin.models.batch_random import BatchRandom
from nlcl_plugin.models.nlcl_options import RestorerOptions


def make_pseudo_rainy(clean: Tensor, rain: Tensor, options: RestorerOptions, random: BatchRandom) -> Tensor:
    """Lay varied rain on clean images.

    Args:
        clean: Clean images C (B, 3, H, W), RGB in [0, 1].
        rain: Rain layers R of other images (B, C, H, W); negative values are dropped.
        options: Ranges of the variation (see `RestorerOptions`). More than one layer takes the further ones from
            the other images given here.
        random: Where the variation is drawn from.

    Returns:
        Pseudo-rainy images (B, 3, H, W), RGB in [0, 1]; a fraction `options.rain_free` of them equals `clean`.
    """
    rain = rain.detach().clamp_min(0)
    rain = rain * (rain > options.threshold)
    total = vary_rain(rain, options, random)
    for extra in range(1, options.layers):
        # Each image gets another one's rain on top, or none: rain of several densities from the same few layers.
        other = vary_rain(rain.roll(extra, dims=0), options, random)
        total = torch.maximum(total, other * random.coin(0.5, rain))
    total = total * random.coin(1 - options.rain_free, rain)
    screen = random.coin(options.screen, rain)
    return screen * lay_rain(clean, total, blend="screen") + (1 - screen) * lay_rain(clean, total)


def vary_rain(rain: Tensor, options: RestorerOptions, random: BatchRandom) -> Tensor:
    """Flip, resize and amplify rain layers.

    Args:
        rain: Rain layers (B, C, H, W), not negative.
        options: Ranges of the variation; the size is drawn once for the batch, gain and flips for each image.
        random: Where the variation is drawn from.

    Returns:
        Rain layers of the same shape.
    """
    height, width = rain.shape[-2:]
    if options.flip:
        rain = torch.where(random.coin(0.5, rain) > 0, rain.flip(-1), rain)
        rain = torch.where(random.coin(0.5, rain) > 0, rain.flip(-2), rain)
    scale = random.shared(*options.resize)
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if size != (height, width):
        rain = F.interpolate(rain, size=size, mode="bilinear", align_corners=False, antialias=scale < 1)
        rain = _fit(rain, height, width, random)
    return rain * random.uniform(*options.gain, rain)


def _fit(rain: Tensor, height: int, width: int, random: BatchRandom) -> Tensor:
    """Cut or mirror rain layers to a size."""
    pad_h, pad_w = max(0, height - rain.shape[-2]), max(0, width - rain.shape[-1])
    while pad_h or pad_w:  # one reflection can at most double a side less one
        step_h, step_w = min(pad_h, rain.shape[-2] - 1), min(pad_w, rain.shape[-1] - 1)
        if step_h + step_w == 0:
            rain = F.pad(rain, (0, pad_w, 0, pad_h), mode="replicate")
            break
        rain = F.pad(rain, (0, step_w, 0, step_h), mode="reflect")
        pad_h, pad_w = max(0, height - rain.shape[-2]), max(0, width - rain.shape[-1])
    top = random.shared_integer(rain.shape[-2] - height + 1)
    left = random.shared_integer(rain.shape[-1] - width + 1)
    return rain[..., top : top + height, left : left + width]
