"""EXIF blocks, changed in place: rewriting them would break the makers' notes, which point into them.

An EXIF block is a small TIFF file, so that all of this holds for the tags of a TIFF file too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

_ORIENTATION, _EXIF, _WIDTH, _HEIGHT = 0x0112, 0x8769, 0xA002, 0xA003
_SHORT, _LONG = 3, 4


def orientation_of(block: bytes) -> int:
    """Read the orientation.

    Args:
        block: An EXIF block or a TIFF file.

    Returns:
        1 to 8 as in the EXIF standard; 1 if there is none or it is no such number.
    """
    try:
        for tag, at in _entries(block, _first(block)):
            if tag == _ORIENTATION:
                value = _number(block, at)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def set_upright(block: bytes) -> bytes | None:
    """Mark a photograph as the right way up, after its pixels were turned by `turned`.

    The orientation becomes 1, width and height change places where the turn changed them, and the thumbnail, which
    shows the photograph as it was, is cut off.

    Args:
        block: An EXIF block or a TIFF file.

    Returns:
        The changed block, of the same length; None if it is broken.
    """
    changed = bytearray(block)
    try:
        order, first = _order(block), _first(block)
        sideways = orientation_of(block) >= 5
        for tag, at in _entries(block, first):
            if tag == _ORIENTATION:
                # The type, the count, and the value in the first two of four bytes.
                struct.pack_into(order + "HIHH", changed, at + 2, _SHORT, 1, 1, 0)
            elif tag == _EXIF and sideways:
                places = dict(_entries(block, _number(block, at)))
                if _WIDTH in places and _HEIGHT in places:
                    width, height = (slice(places[tag] + 2, places[tag] + 12) for tag in (_WIDTH, _HEIGHT))
                    changed[width], changed[height] = block[height], block[width]
        count = struct.unpack_from(order + "H", block, first)[0]
        struct.pack_into(order + "I", changed, first + 2 + 12 * count, 0)
    except struct.error:
        return None
    return bytes(changed)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels the right way up.

    Args:
        pixels: (H, W) or (H, W, C).
        orientation: As `orientation_of` gives it.

    Returns:
        The pixels as they are to be seen: contiguous, and the same array for orientation 1.
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _order(block: bytes) -> str:
    marks = {b"II*\0": "<", b"MM\0*": ">"}
    if bytes(block[:4]) not in marks:
        raise struct.error("no TIFF header")
    return marks[bytes(block[:4])]


def _first(block: bytes) -> int:
    return struct.unpack_from(_order(block) + "I", block, 4)[0]


def _entries(block: bytes, directory: int) -> Iterator[tuple[int, int]]:
    """The tags of a directory and where their entries begin."""
    order = _order(block)
    (count,) = struct.unpack_from(order + "H", block, directory)
    for number in range(count):
        at = directory + 2 + 12 * number
        tag, *_ = struct.unpack_from(order + "HHII", block, at)
        yield tag, at


def _number(block: bytes, at: int) -> int:
    order = _order(block)
    (kind,) = struct.unpack_from(order + "H", block, at + 2)
    return struct.unpack_from(order + ("I" if kind == _LONG else "H"), block, at + 8)[0]
