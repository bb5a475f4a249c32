"""A perceptual hash, and the search for images that resemble each other by it."""

from __future__ import annotations

import cv2
import numpy as np

BITS = 128
_FLAT = 0.004  # about one grey level of 255: below, the hash is that of the noise


def dhash(rgb: np.ndarray) -> int | None:
    """Hash what an image shows: whether brightness rises from place to place, over and down.

    Difference hash with 8 × 8 horizontal and 8 × 8 vertical comparisons on a shrunken grey image.

    Args:
        rgb: An (H, W, 3) array, float32 in [0, 1].

    Returns:
        128 bits, or None for an image without structure.
    """
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    across = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA)
    if float(across.std()) < _FLAT and float(down.std()) < _FLAT:
        return None
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def distances(one: int, others: np.ndarray) -> np.ndarray:
    """Count the bits in which hashes differ.

    Args:
        one: A hash.
        others: An (N, 16) uint8 array as of `as_bytes`.

    Returns:
        N counts.
    """
    return _POPCOUNT[others ^ np.frombuffer(one.to_bytes(16, "big"), np.uint8)].sum(axis=1)


def as_bytes(hashes: list[int]) -> np.ndarray:
    """Make an (N, 16) uint8 array of hashes."""
    return np.frombuffer(b"".join(value.to_bytes(16, "big") for value in hashes), np.uint8).reshape(-1, 16)


_POPCOUNT = np.array([bin(value).count("1") for value in range(256)], np.int64)
