"""A picture of a prepared dataset: some images of each folder, and histograms of size and brightness."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nlcl_plugin.data.image_io import decode_raw, read_bytes, to_float, to_uint8
from nlcl_plugin.data.prepare.model import FOLDERS, Item, Plan

_COLUMNS, _ROWS = 8, 2
_CELL = (150, 112)
_GAP, _TITLE, _CHART = 8, 26, 190
_COLOURS = {"rainy": (38, 104, 178), "clean": (226, 128, 24)}
_GREY, _INK = (120, 120, 120), (20, 20, 20)


def draw_summary(plan: Plan, output: Path) -> bytes:
    """Draw the summary of a prepared dataset.

    Args:
        plan: The plan.
        output: The folder where its files are.

    Returns:
        A PNG file, the same for the same plan and files.
    """
    sections = [(name, _of(plan, key)) for key, name in FOLDERS.items() if _of(plan, key)]
    width = _COLUMNS * (_CELL[0] + _GAP) + _GAP
    rows = [min(_ROWS, -(-len(items) // _COLUMNS)) for _, items in sections]
    height = sum(_TITLE + count * (_CELL[1] + _GAP) for count in rows) + _TITLE + _CHART + 4 * _GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    top = _GAP
    for (name, items), count in zip(sections, rows, strict=True):
        scenes = len({item.scene for item in items})
        draw.text((_GAP, top), f"{name}: {len(items)} images of {scenes} scenes", _INK, font=font)
        top += _TITLE
        for place, item in enumerate(_spread(items, count * _COLUMNS)):
            left = _GAP + place % _COLUMNS * (_CELL[0] + _GAP)
            _paste(sheet, output / item.path, (left, top + place // _COLUMNS * (_CELL[1] + _GAP)))
        top += count * (_CELL[1] + _GAP)
    half = (width - 3 * _GAP) // 2
    sizes = {
        role: np.array([min(i.facts.width, i.facts.height) for i in plan.items if i.role == role]) for role in _COLOURS
    }
    lights = {role: np.array([i.facts.brightness for i in plan.items if i.role == role]) for role in _COLOURS}
    longest = float(max(values.max() for values in sizes.values() if len(values)))
    _chart(draw, (_GAP, top, half), "shorter side in pixels", sizes, longest, font, small)
    _chart(draw, (2 * _GAP + half, top, half), "mean brightness, 0 black to 1 white", lights, 1.0, font, small)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _of(plan: Plan, key: tuple[str, str]) -> list[Item]:
    return [item for item in plan.items if (item.split, item.role) == key]


def _spread(items: list[Item], count: int) -> list[Item]:
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int)
    return [items[place] for place in places]


def _paste(sheet: Image.Image, path: Path, corner: tuple[int, int]) -> None:
    pixels = decode_raw(read_bytes(path), str(path))
    image = Image.fromarray(pixels if pixels.dtype == np.uint8 else to_uint8(to_float(pixels)))
    # Enlarged too, so that tiny tiles can be seen, and without smoothing, so that it shows that they are tiny.
    scale = min(_CELL[0] / image.width, _CELL[1] / image.height)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    image = image.resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
    sheet.paste(image, (corner[0] + (_CELL[0] - size[0]) // 2, corner[1] + (_CELL[1] - size[1]) // 2))


def _chart(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int, int],
    title: str,
    values: dict[str, np.ndarray],
    longest: float,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    small: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    left, top, width = place
    draw.text((left, top), title, _INK, font=font)
    offset = left + 300
    for role, colour in _COLOURS.items():
        draw.rectangle((offset, top + 4, offset + 10, top + 14), fill=colour)
        draw.text((offset + 16, top), role, _INK, font=font)
        offset += 80
    bins, floor = 24, top + _TITLE + _CHART - 20
    step = width / bins
    for number, (role, numbers) in enumerate(values.items()):
        if not len(numbers):
            continue
        # Shares, as the two sides may differ in count.
        share = np.histogram(numbers, bins=bins, range=(0.0, longest))[0] / len(numbers)
        for index, part in enumerate(share):
            if part:
                start = left + index * step + number * step / 2
                tall = max(part * (_CHART - 40), 1)
                draw.rectangle((start, floor - tall, start + step / 2 - 1, floor), fill=_COLOURS[role])
    draw.line((left, floor, left + width, floor), fill=_GREY)
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        text = f"{part * longest:g}" if longest <= 1 else f"{part * longest:.0f}"
        at = left + part * width
        draw.line((at, floor, at, floor + 4), fill=_GREY)
        draw.text((at - part * small.getlength(text), floor + 5), text, _GREY, font=small)
