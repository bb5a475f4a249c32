"""A perceptual hash, and the search for images that resemble each other by it."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from nlcl_plugin.data.image_io import to_float

BITS = 128
_CELLS = 2**23
_STRIP = 2**17  # pixels
_FLAT = 0.004  # about one grey level of 255: below, the hash is that of the noise


def dhash(image: np.ndarray) -> int | None:
    """Hash what an image shows: whether brightness rises from place to place, over and down.

    Difference hash with 8 × 8 horizontal and 8 × 8 vertical comparisons on a shrunken grey image.

    Args:
        image: An (H, W, 3) RGB array of uint8, uint16, or float32 in [0, 1].

    Returns:
        128 bits, or None for an image without structure.
    """
    grey = _grey(image)
    across = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA)
    if float(across.std()) < _FLAT and float(down.std()) < _FLAT:
        return None
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _grey(image: np.ndarray) -> np.ndarray:
    """Grey levels in [0, 1]; strip by strip, as all of a large photograph as floats would take gigabytes, and time."""
    height, width, _ = image.shape
    grey = np.empty((height, width), np.float32)
    rows = max(_STRIP // width, 1)
    for top in range(0, height, rows):
        grey[top : top + rows] = cv2.cvtColor(to_float(image[top : top + rows]), cv2.COLOR_RGB2GRAY)
    return grey


def signs(hashes: list[int]) -> np.ndarray:
    """Make an (N, 128) float32 array of hashes, with −1 and 1 for their bits."""
    table = np.frombuffer(b"".join(value.to_bytes(BITS // 8, "big") for value in hashes), np.uint8)
    return np.unpackbits(table.reshape(-1, BITS // 8), axis=1).astype(np.float32) * 2 - 1


def distances(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Count the bits in which hashes differ.

    Args:
        ones: An (N, 128) array as of `signs`.
        others: An (M, 128) array of the same.

    Returns:
        (N, M) counts, float32.
    """
    # A product counts the bits that agree minus those that differ. It is exact, as all are small whole numbers, and
    # compares 30,000 images with 30,000 in seconds.
    return (BITS - ones @ others.T) / 2


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Divide the rows of a table of distances so that each part takes little memory."""
    step = max(_CELLS // max(columns, 1), 1)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
