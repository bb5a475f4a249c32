"""NIQE of BasicSR, NaN where it has none."""

from __future__ import annotations

import math
import warnings

import numpy as np
from basicsr.metrics import calculate_niqe

MIN_SIDE = 192  # pixels: two blocks of 96 a side, as NIQE fits a Gaussian over the blocks


def niqe(image: np.ndarray, crop_border: int = 0) -> float:
    """Natural image quality (Mittal, Soundararajan & Bovik, IEEE SPL 2013); lower is better.

    Args:
        image: (H, W, 3), uint8 RGB.
        crop_border: Pixels that are left out at each side.

    Returns:
        The figure; NaN for an image that is too small or too flat to have one.
    """
    if min(image.shape[:2]) < MIN_SIDE:
        return math.nan
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # of divisions by the deviation of flat blocks
            value = float(np.squeeze(calculate_niqe(image[..., ::-1], crop_border=crop_border)))
    except np.linalg.LinAlgError:
        return math.nan
    return value if math.isfinite(value) else math.nan
