"""A picture of a bank of rain layers: rainy images and what was extracted from them, side by side."""

from __future__ import annotations

import numpy as np

from nlcl_plugin.data.image_io import encode_png, to_float
from nlcl_plugin.errors import escape
from nlcl_plugin.pictures import Cell, brightened, fit, grid, strip

_COLUMNS = 3  # pairs in a row
_WIDTH, _HEIGHT = 230, 200  # the largest picture, pixels
_GAP = 2


def draw_sheet(pairs: list[tuple[str, np.ndarray, np.ndarray]], heading: str) -> bytes:
    """Draw rainy images, with their rain layers to the right of them.

    Args:
        pairs: Name, image and layer (H, W, 3), uint8 RGB; at least one.
        heading: The first line; how much brighter the layers are shown is added to it.

    Returns:
        A PNG file, the same for the same pairs.
    """
    layers, factor = brightened([to_float(rain) for _, _, rain in pairs])
    cells = [
        Cell(
            strip([fit(half, _WIDTH, _HEIGHT) for half in (rainy, shown)], _GAP),
            f"{_end(escape(name))}   mean R {rain.mean() / 255:.4f}",
        )
        for (name, rainy, rain), shown in zip(pairs, layers, strict=True)
    ]
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    bright = "as it is" if factor == 1 else f"{factor:g} times as bright as it is"
    heading = f"{heading}; left rainy, right the rain layer, shown {bright}"
    return encode_png(grid(rows, 2 * _WIDTH + _GAP, _HEIGHT, heading=heading))


def _end(name: str) -> str:
    return name if len(name) <= 36 else f"…{name[-35:]}"
