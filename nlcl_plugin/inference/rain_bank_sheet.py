"""A picture of a bank of rain layers: rainy images and what was extracted of them, side by side."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nlcl_plugin.errors import escape

_COLUMNS = 3  # pairs in a row
_CELL = (230, 200)  # the largest picture, pixels
_GAP, _LINE = 8, 20
_INK, _GREY = (20, 20, 20), (110, 110, 110)
_MOST = 8.0  # how much brighter than it is rain is shown at most


@dataclass(frozen=True)
class Shown:
    """One pair of the sheet.

    Attributes:
        name: Of the rainy image.
        rainy: The image (H, W, 3), uint8 RGB.
        rain: Its layer (H, W, 3), uint8.
    """

    name: str
    rainy: np.ndarray
    rain: np.ndarray


def draw_sheet(pairs: list[Shown], heading: str) -> bytes:
    """Draw rainy images, their layers to the right of them.

    Layers of faint rain are all made brighter by one factor, which the heading tells.

    Args:
        pairs: What to show, at least one.
        heading: The first line.

    Returns:
        A PNG file, the same for the same pairs.
    """
    factor = _factor(pairs)
    rows = [pairs[start : start + _COLUMNS] for start in range(0, len(pairs), _COLUMNS)]
    cell = max(2 * _CELL[0] + _GAP // 2, 1)
    width = min(_COLUMNS, len(pairs)) * (cell + 2 * _GAP) + _GAP
    pictures = [[_side_by_side(pair, factor) for pair in row] for row in rows]
    heights = [max(picture.height for picture in row) + _LINE + _GAP for row in pictures]
    sheet = Image.new("RGB", (width, sum(heights) + _LINE + 2 * _GAP), "white")
    draw, font, small = ImageDraw.Draw(sheet), ImageFont.load_default(15), ImageFont.load_default(12)
    shown = "as it is" if factor == 1 else f"shown {factor:.1f} times as bright"
    draw.text((_GAP, _GAP // 2), f"{heading}; left rainy, right the rain layer, {shown}", _INK, font=font)
    top = _LINE + 2 * _GAP
    for row, row_pictures, height in zip(rows, pictures, heights, strict=True):
        for column, (pair, picture) in enumerate(zip(row, row_pictures, strict=True)):
            left = _GAP + column * (cell + 2 * _GAP)
            sheet.paste(picture, (left, top))
            text = f"{_end(escape(pair.name))}   mean R {pair.rain.mean() / 255:.4f}"
            draw.text((left, top + picture.height + 2), text, _GREY, font=small)
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _factor(pairs: list[Shown]) -> float:
    bright = max(float(np.quantile(pair.rain, 0.999)) for pair in pairs)
    return min(max(200 / max(bright, 1.0), 1.0), _MOST)


def _side_by_side(pair: Shown, factor: float) -> Image.Image:
    rain = np.clip(pair.rain * factor, 0, 255).round().astype(np.uint8)
    halves = [_fit(Image.fromarray(pixels)) for pixels in (pair.rainy, rain)]
    both = Image.new("RGB", (2 * halves[0].width + _GAP // 2, halves[0].height), "white")
    both.paste(halves[0], (0, 0))
    both.paste(halves[1], (halves[0].width + _GAP // 2, 0))
    return both


def _fit(image: Image.Image) -> Image.Image:
    scale = min(_CELL[0] / image.width, _CELL[1] / image.height)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def _end(name: str) -> str:
    return name if len(name) <= 36 else f"…{name[-35:]}"
