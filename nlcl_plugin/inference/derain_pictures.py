"""Pictures beside a derained photograph: its rain layer, a heat map of it, and all side by side."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from nlcl_plugin.data.files import check_inside, inner_name
from nlcl_plugin.data.image_io import to_float, to_uint8, write_image

KINDS = ("rain", "montage", "heatmap")
_HOT = 0.3  # rain, in [0, 1], that gets the hottest colour
_GAP = 4  # white pixels between pictures


def save_pictures(kinds: tuple[str, ...], output: Path, name: Path, rainy: np.ndarray, derained: np.ndarray) -> None:
    """Save pictures as `output/KIND/name.png`, 8-bit.

    Args:
        kinds: Of `KINDS`.
        output: The folder of the derained files.
        name: The file's name below it.
        rainy: O (H, W, 3), RGB.
        derained: B, of the same shape and type.

    Raises:
        InputError: If a link leads out of the folder.
    """
    if not kinds:
        return
    rain = np.clip(to_float(rainy) - to_float(derained), 0, 1)
    heat = heat_map(rain)
    pictures = {
        "rain": lambda: rain,
        "heatmap": lambda: heat,
        "montage": lambda: _side_by_side(rainy, derained, rain, heat),
    }
    for kind in kinds:
        # The ending of the file stays in the name: a.jpg and a.png are two.
        path = output / f"_{kind}" / f"{inner_name(str(name))}.png"
        check_inside(path, output)
        write_image(path, pictures[kind]())


def heat_map(rain: np.ndarray) -> np.ndarray:
    """Colour a rain layer (H, W, 3) in [0, 1] by its mean over the channels, from black to 0.3 and above as white."""
    level = to_uint8(np.repeat(np.clip(rain.mean(axis=2, keepdims=True) / _HOT, 0, 1), 3, axis=2))[..., 0]
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_HOT), cv2.COLOR_BGR2RGB)


def _side_by_side(rainy: np.ndarray, derained: np.ndarray, rain: np.ndarray, heat: np.ndarray) -> np.ndarray:
    cells = [to_uint8(to_float(cell)) for cell in (rainy, derained, rain, heat)]
    gap = np.full((rainy.shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for cell in cells for part in (cell, gap)][:-1], axis=1)
