"""Pseudo-pairs (ours): rain, varied and laid on unrelated clean images, with the clean image as target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nlcl_plugin.losses import lay_rain
from nlcl_plugin.rain.batch_random import BatchRandom, to_device
from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.renderer import render_rain
from nlcl_plugin.rain.variation import RainVariation

AIR_LIGHT = (0.6, 1.0)  # brightness of the light that rain scatters
RENDERERS = {"demo": render_rain, "photograph": render_photographic_rain}  # by the names of `RainVariation.renderer`


def make_pseudo_rainy(
    clean: Tensor, rain: Tensor, options: RainVariation, random: BatchRandom, others: Sequence[Tensor] | None = None
) -> Tensor:
    """Lay varied rain on clean images.

    Args:
        clean: Clean images C (B, 3, H, W), RGB in [0, 1].
        rain: Rain layers R of other images (B, C, H, W); negative values are dropped.
        options: Ranges of the variation; `rendered`, `noise` and `jpeg` are the caller's.
        random: Where the variation is drawn from.
        others: With more than one layer: the further ones, `options.layers` - 1 of the shape of `rain`. By default
            they are the rain of the other images given here.

    Returns:
        Pseudo-rainy images (B, 3, H, W), RGB in [0, 1]; a fraction `options.rain_free` of them equals `clean`.
    """
    rain = _without_texture(rain, options)
    total = vary_rain(rain, options, random)
    for extra in range(1, options.layers):
        # Each image gets another one's rain on top, or none: rain of several densities from the same few layers.
        another = rain.roll(extra, dims=0) if others is None else _without_texture(others[extra - 1], options)
        total = torch.maximum(total, vary_rain(another, options, random) * random.coin(0.5, rain))
    total = total * random.coin(1 - options.rain_free, rain)
    screen = random.coin(options.screen, rain)
    others_laid = lay_rain(clean, total)
    if options.air_light > 0:
        lit = lay_rain(clean, total.clamp(max=1), blend="screen", light=random.uniform(*AIR_LIGHT, rain))
        chosen = random.coin(options.air_light, rain)
        others_laid = chosen * lit + (1 - chosen) * others_laid
    return screen * lay_rain(clean, total, blend="screen") + (1 - screen) * others_laid


def replace_by_rendered(rain: Tensor, options: RainVariation, random: BatchRandom) -> Tensor:
    """Put rendered rain in the places of some rain layers.

    Args:
        rain: Rain layers (B, C, H, W), the shape of the result.
        options: A fraction `rendered` of the layers is replaced, by what `renderer` makes. With 0 no number is drawn.
        random: Where it is drawn from which ones these are, and what they become.
    """
    if options.rendered == 0:
        return rain
    render = RENDERERS[options.renderer]
    rain = rain.clone()
    for place, seed in random.seeds(options.rendered).items():
        rendered = render((rain.shape[-2], rain.shape[-1]), np.random.default_rng(seed))
        rain[place] = to_device(torch.from_numpy(rendered), rain)  # grey: all channels alike
    return rain


def vary_rain(rain: Tensor, options: RainVariation, random: BatchRandom) -> Tensor:
    """Flip, resize and amplify rain layers.

    Args:
        rain: Rain layers (B, C, H, W), not negative; the shape of the result.
        options: Ranges of the variation; the size is drawn once for the batch, gain and flips for each image.
        random: Where the variation is drawn from.
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


def _without_texture(rain: Tensor, options: RainVariation) -> Tensor:
    rain = rain.detach().clamp_min(0)
    return rain * (rain > options.threshold)


def _fit(rain: Tensor, height: int, width: int, random: BatchRandom) -> Tensor:
    """Cut or mirror rain layers to a size."""
    for dim, length in ((-2, height), (-1, width)):
        size = rain.shape[dim]
        if size < length:  # continued by reflection to and fro: 0 1 2 1 0 1 ... for a size of 3
            places = torch.arange(length, device=rain.device) % max(2 * (size - 1), 1)
            rain = rain.index_select(dim, torch.minimum(places, 2 * (size - 1) - places))
    top = random.shared_integer(rain.shape[-2] - height + 1)
    left = random.shared_integer(rain.shape[-1] - width + 1)
    return rain[..., top : top + height, left : left + width]
