"""EXIF and XMP, changed in place: rewriting EXIF would break the makers' notes, which point into it.

An EXIF block is a small TIFF file, so that all of this holds for the tags of a TIFF file too.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

EXIF, GPS = 0x8769, 0x8825  # tags of directories inside
TEXTS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)  # description, maker, date, copyright …
RESOLUTION = (0x011A, 0x011B, 0x0128)  # across, down, and their unit
_ORIENTATION, _INTEROP = 0x0112, 0xA005
_SHORT, LONG = 3, 4  # types of numbers

# What speaks of other parts of the file, which are not written again: thumbnails, more XMP, depth, gain maps, videos.
_OF_PARTS = re.compile(
    rb"Thumbnails|HasExtendedXMP|MicroVideo|MotionPhoto|hdrgm:|HDRGainMap|Container:Directory|GDepth:|GImage:|GAudio:"
)
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation\s*(?:=\s*[\"']|>\s*))[1-8](?=\s*[\"'<])")
_ANY_ORIENTATION = re.compile(rb"(?<!/)\b\w+:Orientation\b")


def orientation_of(block: bytes) -> int:
    """Read the orientation, 1 to 8 as in the EXIF standard; 1 if there is none or it is no such number."""
    try:
        for tag, at in entries(block):
            if tag == _ORIENTATION:
                value = _number(block, at)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def set_upright(block: bytes) -> bytes | None:
    """Mark a photograph as the right way up, after its pixels were turned by `turned`.

    The orientation becomes 1, and the thumbnail, which shows the photograph as it was, is cut off. The block keeps its
    length; None if it is broken.
    """
    changed = bytearray(block)
    try:
        order, (first,) = _order(block), _unpack(block, "I", 4)
        for tag, at in entries(block):
            if tag == _ORIENTATION:
                # The type, the count, and the value in the first two of four bytes.
                struct.pack_into(order + "HIHH", changed, at + 2, _SHORT, 1, 1, 0)
        (count,) = _unpack(block, "H", first)
        struct.pack_into(order + "I", changed, first + 2 + 12 * count, 0)
    except struct.error:
        return None
    return bytes(changed)


def xmp_upright(packet: bytes) -> bytes | None:
    """Mark a photograph as the right way up in its XMP.

    None if the packet would not hold for the new file, or has a form that cannot be changed here.
    """
    changed, found = _XMP_ORIENTATION.subn(rb"\g<1>1", packet)
    if b"\0" in packet or _OF_PARTS.search(packet) or found != len(_ANY_ORIENTATION.findall(packet)):
        return None
    return changed


def exif_of_tiff(data: bytes) -> bytes | None:
    """Make an EXIF block of those tags of a TIFF file that describe the photograph, not how it is stored; or None.

    Raises:
        Exception: What Pillow raises for broken tags.
    """
    found, kept = Image.Exif(), Image.Exif()
    found.load_from_fp(io.BytesIO(data), None)
    for tag in (*TEXTS, *RESOLUTION, _ORIENTATION):
        if tag in found:
            kept[tag] = found[tag]
    for tag in (EXIF, GPS):
        if inner := {key: value for key, value in found.get_ifd(tag).items() if key != _INTEROP}:
            kept[tag] = inner
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else None


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels the right way up: contiguous, and the same array for orientation 1."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def entries(block: bytes) -> Iterator[tuple[int, int]]:
    """The tags of the first directory, and where their entries begin."""
    (directory,) = _unpack(block, "I", 4)
    (count,) = _unpack(block, "H", directory)
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        yield _unpack(block, "HHII", at)[0], at


def _order(block: bytes) -> str:
    marks = {b"II*\0": "<", b"MM\0*": ">"}
    if bytes(block[:4]) not in marks:
        raise struct.error("no TIFF header")
    return marks[bytes(block[:4])]


def _unpack(block: bytes, form: str, at: int) -> tuple[int, ...]:
    return struct.unpack_from(_order(block) + form, block, at)


def _number(block: bytes, at: int) -> int:
    (kind,) = _unpack(block, "H", at + 2)
    return _unpack(block, "I" if kind == LONG else "H", at + 8)[0]
