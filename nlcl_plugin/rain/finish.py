"""What a camera does to a photograph after the rain: noise, sharpening and JPEG, alike on both images (ours)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg
from torchvision.transforms.functional import gaussian_blur

from nlcl_plugin.rain.batch_random import BatchRandom, to_device
from nlcl_plugin.rain.variation import RainVariation

QUALITY = (60.0, 98.0)  # of JPEG
SOFTEST = -0.5  # of the largest amount of sharpening: that much is taken from the details instead of added


def finish_pairs(clean: Tensor, rainy: Tensor, options: RainVariation, random: BatchRandom) -> tuple[Tensor, Tensor]:
    """Give the images of each pair the same noise and sharpness, and compress both as JPEG of the same quality.

    So rain looks as it does in photographs, and the clean image as it would there: noise, bright seams of sharpened
    edges and compression are not what a restorer is to remove.

    Args:
        clean: Clean images (B, 3, H, W), RGB in [0, 1].
        rainy: The same with rain.
        options: `noise`, `sharpen` and `jpeg`. What is 0 draws no number.
        random: Where noise, amounts and qualities are drawn from.

    Returns:
        The clean and the rainy images, as they came where all options are 0.
    """
    if options.noise > 0:
        strength = random.uniform(0.0, options.noise, clean)
        shape = clean.shape[1:]
        drawn = random.each(lambda n: torch.randn(n, *shape, generator=random.generator), clean.device)
        noise = strength * drawn.to(clean.dtype)
        clean, rainy = (clean + noise).clamp(0, 1), (rainy + noise).clamp(0, 1)
    if options.sharpen > 0:
        amount = random.uniform(SOFTEST * options.sharpen, options.sharpen, clean)
        clean, rainy = ((images + amount * (images - _blurred(images))).clamp(0, 1) for images in (clean, rainy))
    if options.jpeg > 0:
        cpu = clean.new_empty(0, device="cpu", dtype=torch.float32)
        chosen = random.coin(options.jpeg, cpu).flatten().tolist()
        quality = random.uniform(*QUALITY, cpu).flatten().tolist()
        clean, rainy = clean.clone(), rainy.clone()
        for place, compress in enumerate(chosen):
            if compress:
                for images in (clean, rainy):
                    images[place] = _as_jpeg(images[place], round(quality[place]))
    return clean, rainy


def _blurred(images: Tensor) -> Tensor:
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")  # by reflection, images of two pixels are too small
    return gaussian_blur(padded, [5, 5], [1.0, 1.0])[..., 2:-2, 2:-2]


def _as_jpeg(image: Tensor, quality: int) -> Tensor:
    levels = (image.float().clamp(0, 1) * 255).round().to("cpu", torch.uint8)
    return to_device(decode_jpeg(encode_jpeg(levels, quality)) / 255, image)
