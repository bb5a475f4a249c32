"""Square crops of images of any size, mirrored and turned at random."""

from __future__ import annotations

import numpy as np


def random_crop(
    image: np.ndarray, size: int, rng: np.random.Generator, *, hflip: bool, vflip: bool, rot: bool
) -> np.ndarray:
    """Cut a square at a random place; an image smaller than it is continued by reflection.

    Five numbers are drawn whatever the flags are, so that switching one on leaves all else as it was.

    Args:
        image: An (H, W, C) array.
        size: The side of the square.
        rng: Where place and flips are drawn from.
        hflip: Mirror left-right, half of the time.
        vflip: Mirror upside down, half of the time.
        rot: Transpose, half of the time.

    Returns:
        A view of (size, size, C).
    """
    image = reflect_to(image, size)
    height, width, _ = image.shape
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    mirrored, upside_down, transposed = rng.random(3) < 0.5
    image = image[top : top + size, left : left + size]
    if mirrored and hflip:
        image = image[:, ::-1]
    if upside_down and vflip:
        image = image[::-1]
    if transposed and rot:
        image = image.transpose(1, 0, 2)
    return image


def reflect_to(image: np.ndarray, size: int) -> np.ndarray:
    """Continue an image to the right and below by reflection, where it is smaller than a square.

    The edge is not repeated. An image too small for one reflection is reflected to and fro.

    Args:
        image: An (H, W, C) array.
        size: The side of the square.

    Returns:
        An array of at least `size` in height and width; the image itself if it is that large.
    """
    height, width, _ = image.shape
    if height < size:
        image = image[_reflection(height, size)]
    if width < size:
        image = image[:, _reflection(width, size)]
    return image


def _reflection(length: int, size: int) -> np.ndarray:
    # 0 1 2 1 0 1 2 1 ... for a length of 3; all 0 for a length of 1.
    period = max(2 * (length - 1), 1)
    places = np.arange(size) % period
    return np.minimum(places, period - places)
