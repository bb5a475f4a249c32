"""Pictures inside a page: small, and bright enough to be seen."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import cv2
import numpy as np
from torch import Tensor

from nlcl_plugin.data.image_io import encode_png, to_uint8

JPEG_QUALITY = 85


@dataclass(frozen=True)
class Picture:
    """An image as a page holds it.

    Attributes:
        title: What it is.
        source: A data URI.
        width: Pixels.
        height: Pixels.
        note: A line below.
    """

    title: str
    source: str
    width: int
    height: int
    note: str = ""


def picture(title: str, image: Tensor, *, side: int, note: str = "") -> Picture:
    """Embed an image.

    Args:
        title: What it is.
        image: (3, H, W) in [0, 1]; beyond it is clipped.
        side: The longer side in pixels at most; a larger image is made smaller.
        note: A line below.
    """
    pixels = to_uint8(image)
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if scale < 1:
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return Picture(title, _uri("jpeg", data.tobytes()), *size, note)


def exact_picture(title: str, image: Tensor, note: str = "") -> Picture:
    """Embed a small image as it is, pixel by pixel (3, H, W)."""
    pixels = np.ascontiguousarray(to_uint8(image))
    return Picture(title, _uri("png", encode_png(pixels)), pixels.shape[1], pixels.shape[0], note)


def brightened(image: Tensor) -> tuple[Tensor, float]:
    """Make a faint layer visible.

    Args:
        image: (C, H, W), C of 1 or 3; what is below 0 is dropped.

    Returns:
        The layer (3, H, W) times a power of two, and that factor: 1 to 64, so that 99.5 % of it stay below 1.
    """
    high = float(np.quantile(image.clamp(min=0).numpy(), 0.995))
    factor = 2.0 ** np.clip(np.floor(np.log2(1 / max(high, 1e-6))), 0, 6)
    return (image * factor).clamp(0, 1).expand(3, -1, -1), float(factor)


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
