"""Classical single-image filters against rain streaks: what a learned method has to beat.

Rain is thin, bright and taller than wide. That alone gives strong filters, without any training:

* **opening** with a horizontal 1×k kernel removes whatever is bright and narrower than k pixels;
* **opening - c** also subtracts a constant, for the mean of what rain adds everywhere in heavy rain;
* **streaks** takes what the opening would remove, keeps of it only what is at least 3 or 5 pixels long along some
  upright line, and subtracts that: bright specks stay;
* median, Gaussian, bilateral and plain subtraction are here because readers expect them. They are weaker.

All are functions of a float32 RGB (H, W, 3) image in [0, 1], and return another one. Every kernel size and constant is
an entry of its own in `FILTERS`, so that `best_filter` can choose among them.

References:
    Serra, "Image Analysis and Mathematical Morphology", Academic Press, 1982 (opening, top-hat).
    Soille and Talbot, "Directional morphological filtering", IEEE TPAMI 23(11), 2001 (maximum of openings by lines).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import cv2
import numpy as np

from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.quality import psnr

__all__ = ["FILTERS", "best_filter", "filter_scores", "opening", "remove_streaks"]

ImageFilter = Callable[[np.ndarray], np.ndarray]


def opening(image: np.ndarray, width: int, minus: float = 0.0) -> np.ndarray:
    """Grey opening with a horizontal 1×`width` kernel, for each channel, then subtraction of a constant.

    Args:
        image: (H, W, 3) in [0, 1].
        width: Odd kernel width in pixels; bright structures narrower than this vanish.
        minus: Constant to subtract, in [0, 1].

    Returns:
        Float32 image of the same shape in [0, 1].

    Example:
        >>> image = np.full((5, 7, 3), 0.2, np.float32)
        >>> image[:, 3] = 0.9  # an upright streak, one pixel wide
        >>> bool((opening(image, 3) == np.float32(0.2)).all())
        True
    """
    opened = cv2.morphologyEx(_prepare(image), cv2.MORPH_OPEN, np.ones((1, width), np.uint8))
    return np.clip(opened - np.float32(minus), 0.0, 1.0)


def remove_streaks(image: np.ndarray, width: int, length: int = 5, minus: float = 0.0) -> np.ndarray:
    """Subtracts what is bright, narrower than `width` and elongated within 45 degrees of the vertical.

    The white top-hat of the horizontal opening is opened with line kernels of several upright directions. The maximum
    of these is the estimate of the rain.

    Args:
        image: (H, W, 3) in [0, 1].
        width: Odd width in pixels of the horizontal kernel.
        length: Odd height in pixels that a streak has at least.
        minus: Constant to subtract as well, in [0, 1].

    Returns:
        Float32 image of the same shape in [0, 1].
    """
    whole = _prepare(image)
    hat = whole - opening(whole, width)
    rain = np.max([cv2.morphologyEx(hat, cv2.MORPH_OPEN, line) for line in _upright_lines(length)], axis=0)
    return np.clip(whole - rain - np.float32(minus), 0.0, 1.0)


def filter_scores(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Mean PSNR of each filter over all pairs, rounded to 8 bit.

    Args:
        pairs: Rainy and clean images, aligned, float RGB (H, W, 3) in [0, 1]. Read once, one pair at a time.

    Returns:
        Mean PSNR by filter name; `none` is the rainy image as it is.

    Raises:
        InputError: There is no pair, or a pair differs in size.
    """
    sums = dict.fromkeys(FILTERS, 0.0)
    count = 0
    for rainy, clean in pairs:
        count += 1
        if rainy.shape != clean.shape:
            raise InputError(f"pair {count}: rainy image is {rainy.shape} and clean image is {clean.shape}")
        for name, function in FILTERS.items():
            sums[name] += psnr(_rounded(function(rainy)), _rounded(clean))
    if not count:
        raise InputError("no pairs to compare filters on; give at least one rainy and clean image")
    return {name: total / count for name, total in sums.items()}


def best_filter(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[str, float]:
    """The classical filter with the best mean PSNR on these very pairs.

    This is an oracle: kernel and constant are chosen with the clean images in hand, on the same pairs that the result
    is reported for. It favours the baseline, on purpose; a fair user of a filter would do somewhat worse.

    Args:
        pairs: Rainy and clean images, aligned, float RGB (H, W, 3) in [0, 1].

    Returns:
        Name of the filter in `FILTERS` and its mean PSNR in dB. It is never worse than the rainy images as they are.

    Raises:
        InputError: There is no pair, or a pair differs in size.
    """
    scores = filter_scores(pairs)
    name = max(scores, key=scores.__getitem__)
    return name, scores[name]


def _rounded(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255)


def _prepare(image: np.ndarray) -> np.ndarray:
    """Checks the shape; gives an array that OpenCV can read."""
    if image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"image is {image.shape}, expected RGB (H, W, 3)")
    return np.ascontiguousarray(image, np.float32)


def _upright_lines(length: int) -> list[np.ndarray]:
    """Straight lines from top to bottom through the middle of a square kernel, slanted by -45 to 45 degrees."""
    lines = []
    for left in range(length):
        kernel = np.zeros((length, length), np.uint8)
        lines.append(cv2.line(kernel, (left, 0), (length - 1 - left, length - 1), 1, 1))
    return lines


def _none(image: np.ndarray) -> np.ndarray:
    return _prepare(image).copy()


def _median(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.medianBlur(_prepare(image), size)


def _gaussian(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(cv2.GaussianBlur(_prepare(image), (0, 0), sigma), 0.0, 1.0)


def _bilateral(image: np.ndarray, tolerance: float) -> np.ndarray:
    return np.clip(cv2.bilateralFilter(_prepare(image), 7, tolerance, 2.0), 0.0, 1.0)


def _subtract(image: np.ndarray, minus: float) -> np.ndarray:
    return np.clip(_prepare(image) - np.float32(minus), 0.0, 1.0)


def _all_filters() -> dict[str, ImageFilter]:
    """Builds the table."""
    table: dict[str, ImageFilter] = {"none": _none}
    for size in (3, 5):
        table[f"median {size}x{size}"] = partial(_median, size=size)
    for sigma in (0.7, 1.0, 1.5):
        table[f"gaussian {sigma}"] = partial(_gaussian, sigma=sigma)
    for tolerance in (0.1, 0.3):
        table[f"bilateral {tolerance}"] = partial(_bilateral, tolerance=tolerance)
    for constant in (5, 10, 20, 30, 40, 60):
        table[f"minus {constant}/255"] = partial(_subtract, minus=constant / 255)
    for width in (3, 5, 7, 9, 11, 15, 21, 31):
        for constant in (0, 5, 10, 20, 40):
            after = f" minus {constant}/255" if constant else ""
            table[f"opening 1x{width}{after}"] = partial(opening, width=width, minus=constant / 255)
            for length in (3, 5) if constant <= 10 else ():
                name = f"streaks 1x{width} length {length}{after}"
                table[name] = partial(remove_streaks, width=width, length=length, minus=constant / 255)
    return table


FILTERS: dict[str, ImageFilter] = _all_filters()
"""All classical filters by name."""
