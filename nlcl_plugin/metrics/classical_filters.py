"""Classical single-image filters against rain streaks: what a learned method has to beat.

Rain is thin, bright and taller than wide. That alone gives strong filters, without any training:

* **opening** with a horizontal 1×k kernel removes everything bright that is narrower than k pixels;
* **streaks** removes only that part of it which is at least 3 or 5 pixels long along some upright line: bright specks
  stay. "minus c" also subtracts a constant, the mean of what heavy rain adds everywhere;
* **median** and **bilateral** filters are here because readers expect them. They are weaker.

All are functions of a float32 RGB (H, W, 3) image in [0, 1], and return another one. `FILTERS` contains the standard
ones, and those that were the best of a grid of 102 (`tools/studies/all_filters.py`) on rain of the demo and Rain100H.

References:
    Serra, "Image Analysis and Mathematical Morphology", Academic Press, 1982 (opening, top-hat).
    Soille and Talbot, "Directional morphological filtering", IEEE TPAMI 23(11), 2001 (maximum of openings by lines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import cv2
import numpy as np

from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.quality import psnr

ImageFilter = Callable[[np.ndarray], np.ndarray]


def opening(image: np.ndarray, width: int, minus: float = 0.0) -> np.ndarray:
    """Grey opening of each channel with a horizontal 1×`width` kernel (odd, pixels), then subtraction of a constant.

    Example:
        >>> image = np.full((5, 7, 3), 0.2, np.float32)
        >>> image[:, 3] = 0.9  # an upright streak, one pixel wide
        >>> bool((opening(image, 3) == np.float32(0.2)).all())
        True
    """
    return subtract(cv2.morphologyEx(_checked(image), cv2.MORPH_OPEN, np.ones((1, width), np.uint8)), minus)


def remove_streaks(image: np.ndarray, width: int, length: int = 5, minus: float = 0.0) -> np.ndarray:
    """Subtract what is bright, narrower than `width` and elongated within 45 degrees of the vertical.

    The white top-hat of the horizontal opening is opened with line kernels of several upright directions. The maximum
    of these is the estimate of the rain.

    Args:
        image: (H, W, 3) in [0, 1].
        width: Odd width of the horizontal kernel, in pixels.
        length: Odd height that a streak has at least, in pixels.
        minus: Constant to subtract as well, in [0, 1].
    """
    hat = _checked(image) - opening(image, width)
    lines = [
        cv2.line(np.zeros((length, length), np.uint8), (left, 0), (length - 1 - left, length - 1), 1, 1)
        for left in range(length)
    ]
    rain = np.max([cv2.morphologyEx(hat, cv2.MORPH_OPEN, line) for line in lines], axis=0)
    return subtract(_checked(image) - rain, minus)


def subtract(image: np.ndarray, minus: float) -> np.ndarray:
    """Subtract a constant; what is left stays in [0, 1]."""
    return np.clip(_checked(image) - np.float32(minus), 0.0, 1.0)


def median(image: np.ndarray, size: int) -> np.ndarray:
    """Median of 3×3 or 5×5 pixels."""
    return cv2.medianBlur(_checked(image), size)


def bilateral(image: np.ndarray, tolerance: float) -> np.ndarray:
    """Bilateral filter of 7×7 pixels; `tolerance` is its standard deviation over values."""
    return np.clip(cv2.bilateralFilter(_checked(image), 7, tolerance, 2.0), 0.0, 1.0)


FILTERS: dict[str, ImageFilter] = {
    "none": partial(subtract, minus=0.0),
    "median 3x3": partial(median, size=3),
    "bilateral 0.1": partial(bilateral, tolerance=0.1),
    "opening 1x5": partial(opening, width=5),
    "streaks 1x5 length 5": partial(remove_streaks, width=5, length=5),
    "streaks 1x7 length 3": partial(remove_streaks, width=7, length=3),
    "streaks 1x31 length 5 minus 5/255": partial(remove_streaks, width=31, length=5, minus=5 / 255),
}


def best_filter(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]], filters: Mapping[str, ImageFilter] = FILTERS
) -> tuple[str, float]:
    """The filter with the best mean PSNR on these very pairs, which favours the baseline on purpose.

    Args:
        pairs: Rainy and clean images, aligned, float RGB (H, W, 3) in [0, 1]. Read once, one pair at a time.
        filters: Filters by name; with `none`, the result is never worse than the rainy images.

    Returns:
        Its name, and its mean PSNR in dB.

    Raises:
        InputError: If there is no pair, or a pair differs in size.
    """
    scores: dict[str, list[float]] = {name: [] for name in filters}
    for rainy, clean in pairs:
        for name, function in filters.items():
            scores[name].append(psnr(_rounded(function(rainy)), _rounded(clean)))
    means = {name: float(np.mean(values)) for name, values in scores.items() if values}
    if not means:
        raise InputError("no pairs to compare filters on; give at least one rainy and clean image")
    name = max(means, key=means.__getitem__)
    return name, means[name]


def _rounded(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255)


def _checked(image: np.ndarray) -> np.ndarray:
    """The image as an array that OpenCV can read."""
    return np.ascontiguousarray(image, np.float32)
