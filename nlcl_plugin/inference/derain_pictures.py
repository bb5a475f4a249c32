"""Pictures beside a derained photograph: its rain layer, a heat map of it, and all side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nlcl_plugin.data.files import check_inside, inner_name
from nlcl_plugin.data.image_io import to_float, to_uint8, write_image
from nlcl_plugin.pictures import heat_map, strip

KINDS = ("rain", "montage", "heatmap")


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
        "montage": lambda: strip([to_uint8(to_float(cell)) for cell in (rainy, derained, rain, heat)], gap=4),
    }
    for kind in kinds:
        # The ending of the file stays in the name: a.jpg and a.png are two.
        path = output / f"_{kind}" / f"{inner_name(str(name))}.png"
        check_inside(path, output)
        write_image(path, pictures[kind]())
