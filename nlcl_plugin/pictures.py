"""Every picture that people look at is drawn here: grids, heat maps, faint layers, pictures inside a page.

All images are (H, W, 3), uint8 RGB, unless stated otherwise.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nlcl_plugin.data.image_io import encode_png, to_uint8, write_image

CELL_WIDTH = 400  # pixels, of every picture in a montage
_GAP, _LINE = 6, 22  # pixels between pictures, and of a line of text
_HOT = 0.3  # rain, in [0, 1], that gets the hottest colour
_JPEG_QUALITY = 85


class Cell(NamedTuple):
    """A picture of a grid, and the line of text below it."""

    image: np.ndarray
    caption: str = ""


class EmbeddedPicture(NamedTuple):
    """An image as a page contains it: a data URI, its size in pixels, and a line of text below it."""

    title: str
    source: str
    width: int
    height: int
    note: str = ""


def fit(image: np.ndarray, width: int, height: int | None = None, *, enlarge: bool = True) -> np.ndarray:
    """Resize an image to the largest size within a width and, if one is given, a height, in pixels.

    Smaller images are enlarged pixel by pixel or, without `enlarge`, returned as they are.
    """
    rows, columns = image.shape[:2]
    scale = min(width / columns, math.inf if height is None else height / rows)
    if scale >= 1 and not enlarge:
        return image
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)


def grid(
    rows: Sequence[Sequence[Cell]],
    width: int,
    height: int | None = None,
    *,
    titles: Sequence[str] = (),
    heading: str = "",
) -> np.ndarray:
    """Draw a grid on white.

    Args:
        rows: Its cells; at least one row.
        width: Of each column, in pixels. Pictures are resized to fit; see `fit`.
        height: The largest of a picture, in pixels; any if it is None.
        titles: A line of text above each column.
        heading: A line of text above all.
    """
    pictures = [[fit(cell.image, width, height) for cell in row] for row in rows]
    heights = [max(picture.shape[0] for picture in row) + _LINE for row in pictures]
    top = _LINE * (bool(titles) + bool(heading))
    size = max(map(len, rows)) * (width + _GAP) + _GAP, top + sum(heights) + _GAP
    canvas = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    draw.text((_GAP, 3), heading, fill="black", font=font)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (width + _GAP), top - _LINE + 3), title, fill="black", font=font)
    for row, shown, tall in zip(rows, pictures, heights, strict=True):
        for column, (cell, picture) in enumerate(zip(row, shown, strict=True)):
            left = _GAP + column * (width + _GAP)
            canvas.paste(Image.fromarray(picture), (left, top))
            draw.text((left, top + picture.shape[0] + 2), cell.caption, fill="black", font=font)
        top += tall
    return np.asarray(canvas)


def save_montage(path: str, rows: Sequence[Mapping[str, Cell | np.ndarray]]) -> None:
    """Save a grid with a row per image and a column per kind of picture.

    Args:
        path: PNG file; written whole or not at all. Without rows there is none.
        rows: For each image the pictures by title, the same titles in each row.
    """
    if rows:
        cells = [[one if isinstance(one, Cell) else Cell(one) for one in row.values()] for row in rows]
        write_image(path, grid(cells, CELL_WIDTH, titles=list(rows[0])))


def brightened(layers: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Make faint layers visible, all by one factor.

    Args:
        layers: (H, W, 1 or 3), float; what is below 0 is dropped.

    Returns:
        The layers times a power of two, as images, and that factor: 1 to 64, so that 99.9 % of each stay below 1.
    """
    brightest = max(float(np.quantile(layer, 0.999)) for layer in layers)
    factor = 2.0 ** float(np.clip(np.floor(np.log2(1 / max(brightest, 1e-6))), 0, 6))
    return [to_uint8(np.broadcast_to(layer * factor, (*layer.shape[:2], 3))) for layer in layers], factor


def heat_map(rain: np.ndarray) -> np.ndarray:
    """Colour a rain layer (H, W, 3) in [0, 1] by its mean over the channels, from black to 0.3 and above as white."""
    level = to_uint8(np.broadcast_to(rain.mean(axis=2, keepdims=True) / _HOT, rain.shape))[..., 0]
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def embed(title: str, image: Tensor | np.ndarray, *, side: int | None = None, note: str = "") -> EmbeddedPicture:
    """Embed an image as a JPEG of at most `side` pixels or, without a side, as a PNG, pixel by pixel.

    The image is a tensor (3, H, W) or an array (H, W, 3) in [0, 1], clipped to that range, or uint8.
    """
    pixels = to_uint8(image)
    if side is None:
        kind, data = "png", encode_png(pixels)
    else:
        pixels = fit(pixels, side, side, enlarge=False)
        quality = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
        kind, data = "jpeg", cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), quality)[1].tobytes()
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return EmbeddedPicture(title, uri, pixels.shape[1], pixels.shape[0], note)


def embed_rain(title: str, rain: Tensor, *, side: int | None = None, note: str = "") -> EmbeddedPicture:
    """Embed a faint layer (1 or 3, H, W) in the same way, made brighter; the note says how much."""
    (pixels,), factor = brightened([np.moveaxis(rain.numpy(), 0, -1)])
    texts = [note, f"brightness × {factor:g}" if factor > 1 else ""]
    return embed(title, pixels, side=side, note="; ".join(filter(None, texts)))
