"""A grid of 102 classical filters, of which `nlcl_plugin.metrics.FILTERS` has the winners.

Usage: python tools/studies/all_filters.py RAINY CLEAN, two folders of images of equal names
"""

import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np

import nlcl_plugin  # noqa: F401  mends BasicSR
from nlcl_plugin.data.image_io import list_images, read_image
from nlcl_plugin.metrics.classical_filters import (
    ImageFilter,
    best_filter,
    bilateral,
    median,
    opening,
    remove_streaks,
    subtract,
)


def all_filters() -> dict[str, ImageFilter]:
    """Filters by name."""
    table: dict[str, ImageFilter] = {"none": partial(subtract, minus=0.0)}
    for size in (3, 5):
        table[f"median {size}x{size}"] = partial(median, size=size)
    for sigma in (0.7, 1.0, 1.5):
        table[f"gaussian {sigma}"] = partial(_gaussian, sigma=sigma)
    for tolerance in (0.1, 0.3):
        table[f"bilateral {tolerance}"] = partial(bilateral, tolerance=tolerance)
    for constant in (5, 10, 20, 30, 40, 60):
        table[f"minus {constant}/255"] = partial(subtract, minus=constant / 255)
    for width in (3, 5, 7, 9, 11, 15, 21, 31):
        for constant in (0, 5, 10, 20, 40):
            after = f" minus {constant}/255" if constant else ""
            table[f"opening 1x{width}{after}"] = partial(opening, width=width, minus=constant / 255)
            for length in (3, 5) if constant <= 10 else ():
                name = f"streaks 1x{width} length {length}{after}"
                table[name] = partial(remove_streaks, width=width, length=length, minus=constant / 255)
    return table


def best_of_all(rainy: Path, clean: Path) -> tuple[str, float]:
    """Name and mean PSNR of the best of them on two folders of images of equal names."""
    pairs = ((read_image(rainy / name), read_image(clean / name)) for name in list_images(rainy))
    return best_filter(pairs, all_filters())


def _gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(cv2.GaussianBlur(image, (0, 0), sigma), 0.0, 1.0)


if __name__ == "__main__":
    print("best of all: {}, {:.2f} dB".format(*best_of_all(Path(sys.argv[1]), Path(sys.argv[2]))))
