"""Figures of rain streaks: the pixels that are found, against a ground truth, and how much is left, without (ours)."""

from __future__ import annotations

import math

import cv2
import numpy as np

THRESHOLD = 0.05  # what counts as rain: 13 of 255 levels
LINE = 9  # pixels: what is shorter than that is no streak
WIDEST = 7  # pixels: what is wider than that is no streak
ANGLES = range(-80, 100, 10)  # degrees from the vertical; lines of that length differ no finer
PLAIN = 0.2  # excess, relative to the median, that is more than structure: clean photographs had up to 0.18


def precision_recall(rainy: np.ndarray, derained: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Precision and recall of streak pixels: where O - B, in the mean over channels, is above `THRESHOLD`, or O - G is.

    PSNR hardly shows whether rain was found, as filling in well and noise count in it too.

    Args:
        rainy: O, (H, W, 3), float in [0, 1].
        derained: B, of the same shape.
        truth: Ground truth G, of the same shape.

    Returns:
        The fraction of the found pixels that are rain, and the fraction of rainy pixels that are found, in [0, 1]; NaN
        where there are none of which to take a fraction.

    Example:
        >>> rainy, truth = np.full((1, 4, 3), 0.5), np.array([0.0, 0.0, 0.5, 0.5]).reshape(1, 4, 1).repeat(3, 2)
        >>> derained = np.array([0.0, 0.5, 0.0, 0.5]).reshape(1, 4, 1).repeat(3, 2)  # one hit, one false, one missed
        >>> precision_recall(rainy, derained, truth)
        (0.5, 0.5)
    """
    found = (rainy - derained).mean(axis=2) > THRESHOLD
    rain = (rainy - truth).mean(axis=2) > THRESHOLD
    hits = int((found & rain).sum())
    return _ratio(hits, int(found.sum())), _ratio(hits, int(rain.sum()))


def streaks_left(rainy: np.ndarray, derained: np.ndarray) -> float:
    """How much of the streaks is left, without a ground truth: by thin bright lines along the direction of the rain.

    Thin bright detail is what a white top-hat leaves; openings by lines keep what is elongated in their direction. The
    excess of a direction over the median of all is the energy of the streaks, since structure has many directions. The
    rain's direction is that in which the derained image lost most; if it lost nothing, O's strongest.

    Args:
        rainy: O, (H, W, 3), float in [0, 1].
        derained: B, of the same shape.

    Returns:
        The excess in B over that in O: about 1 where nothing was removed, about 0 where no direction is left that
        structure does not have; NaN where the excess in O is not plainly that of rain (`PLAIN`), as with faint, sparse
        or drop-like rain. It compares networks on one photograph: thin structure in the direction of the rain counts
        as streaks.
    """
    before, after = _by_direction(rainy), _by_direction(derained)
    lost = before - after
    direction = int(np.argmax(lost if lost.max() > 0 else before))
    excess = [float(energy[direction] - np.median(energy)) for energy in (before, after)]
    if excess[0] <= PLAIN * np.median(before):
        return math.nan
    return max(excess[1], 0.0) / excess[0]


def _by_direction(image: np.ndarray) -> np.ndarray:
    """Energy of thin bright lines per direction of `ANGLES`."""
    grey = image.mean(axis=2).astype(np.float32)
    detail = cv2.morphologyEx(grey, cv2.MORPH_TOPHAT, np.ones((WIDEST, WIDEST), np.uint8))
    return np.array([float(cv2.morphologyEx(detail, cv2.MORPH_OPEN, _line(angle)).mean()) for angle in ANGLES])


def _line(angle: float) -> np.ndarray:
    kernel = np.zeros((LINE, LINE), np.uint8)
    middle, reach = LINE // 2, LINE / 2
    step = np.array([math.sin(math.radians(angle)), math.cos(math.radians(angle))])
    for t in np.linspace(-reach + 0.5, reach - 0.5, 4 * LINE):
        column, row = np.rint(middle + t * step).astype(int)
        kernel[row, column] = 1
    return kernel


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else math.nan
