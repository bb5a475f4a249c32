"""PSNR and SSIM: one of each for the whole package, and what they are where their formulas have no value.

They are those of BasicSR's `calculate_psnr` and `calculate_ssim`, except:

* PSNR is at most 100 dB, which is what equal images have (and those in which less than one value in 150,000 is off by
  one level). The formula gives infinity there, as BasicSR does, but JSON cannot hold it, and it would make a mean over
  images infinite and a best figure final.
* Where a side is shorter than the 11 pixels of SSIM's window, the window is the largest odd one that fits, as
  scikit-image advises. BasicSR gives NaN, scikit-image raises an error.
* Where `crop_border` leaves no pixel, both are NaN. A figure that an image does not have is NaN, here as for
  `metrics.niqe`; `finite_mean` leaves it out.

References:
    Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 13(4), 2004 (SSIM and its window).
    ITU-R BT.601 (Y, as MATLAB's `rgb2ycbcr` has it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from nlcl_plugin.errors import InputError, escape

MAX_PSNR = 100.0  # dB, of equal images
WINDOW, SIGMA = 11, 1.5  # of SSIM, in pixels
SHOWN = 5  # names of images in a line of the log
_Y = np.array([[65.481], [128.553], [24.966]]) / 255  # of R, G and B


def psnr(image: np.ndarray, truth: np.ndarray, crop_border: int = 0, y_channel: bool = False) -> float:
    """Peak signal-to-noise ratio over all pixels and channels; higher is better.

    Args:
        image: (H, W, 3) RGB or (H, W) grey, with values from 0 to 255.
        truth: What it should be, of the same shape.
        crop_border: Pixels that are left out at each side.
        y_channel: Whether to compare only Y of YCbCr, where there are three channels.

    Returns:
        dB, at most 100, which equal images have; NaN if the border leaves nothing.

    Raises:
        InputError: If the shapes differ.

    Example:
        >>> image = np.zeros((12, 12, 3), np.uint8)
        >>> round(psnr(image, image + 1), 2), psnr(image, image)
        (48.13, 100.0)
    """
    first, second = _compared(image, truth, crop_border, y_channel)
    if not first.size:
        return math.nan
    error = float(np.mean((first - second) ** 2))
    return min(10 * math.log10(255**2 / error), MAX_PSNR) if error else MAX_PSNR


def ssim(image: np.ndarray, truth: np.ndarray, crop_border: int = 0, y_channel: bool = False) -> float:
    """Structural similarity, mean over channels and over the places where a Gaussian window fits; higher is better.

    Arguments and errors are those of `psnr`.

    Returns:
        The figure, from -1 to 1, which equal images have; NaN if the border leaves nothing.

    Example:
        >>> image = np.arange(64.0).reshape(8, 8)
        >>> round(ssim(image, image), 6), round(ssim(image, image[::-1]), 2)
        (1.0, -0.59)
    """
    first, second = _compared(image, truth, crop_border, y_channel)
    if not first.size:
        return math.nan
    return float(np.mean([_ssim(first[..., c], second[..., c]) for c in range(first.shape[2])]))


def finite_mean(figures: Sequence[tuple[str, float]]) -> tuple[float, str]:
    """Mean of a figure over the images that have a finite one.

    Args:
        figures: Names of images with their figures.

    Returns:
        The mean, NaN if there is none to take; and where images are left out, a text with their number and names.

    Example:
        >>> finite_mean([("a", 3.0), ("b", float("nan")), ("c", 5.0)])
        (4.0, ' (over 2 of 3 images; none for b)')
    """
    known = [figure for _, figure in figures if math.isfinite(figure)]
    without = [escape(image) for image, figure in figures if not math.isfinite(figure)]
    names = ", ".join(without[:SHOWN]) + (", …" if len(without) > SHOWN else "")
    left_out = f" (over {len(known)} of {len(figures)} images; none for {names})" if without else ""
    return float(np.mean(known)) if known else math.nan, left_out


def _compared(image: np.ndarray, truth: np.ndarray, border: int, y_channel: bool) -> list[np.ndarray]:
    """What is compared of both, (H, W, C) float64."""
    if image.shape != truth.shape:
        raise InputError(f"the image is {image.shape} and its ground truth {truth.shape}; pairs must have one size")
    pictures = []
    for picture in (image, truth):
        height, width = picture.shape[:2]
        inner = np.atleast_3d(picture)[border : height - border, border : width - border].astype(np.float64)
        pictures.append(inner @ _Y + 16 if y_channel and inner.shape[2] == 3 else inner)
    return pictures


def _ssim(first: np.ndarray, second: np.ndarray) -> float:
    """SSIM of one channel (H, W)."""
    height, width = first.shape
    side = min(height, width)
    size = min(WINDOW, side - (side + 1) % 2)
    kernel, edge = cv2.getGaussianKernel(size, SIGMA), size // 2

    def local(values: np.ndarray) -> np.ndarray:
        return cv2.sepFilter2D(values, -1, kernel, kernel)[edge : height - edge, edge : width - edge]

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean1, mean2 = local(first), local(second)
    variance1, variance2 = local(first**2) - mean1**2, local(second**2) - mean2**2
    covariance = local(first * second) - mean1 * mean2
    alike = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    return float(np.mean(alike / ((mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2))))
