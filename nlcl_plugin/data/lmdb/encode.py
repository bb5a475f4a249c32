"""What an image file becomes in an LMDB: the file itself where that will do, else PNGs of it or of its sub-images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from nlcl_plugin.data.image_io import decode_raw, decode_stored, encode_png
from nlcl_plugin.data.lmdb.keys import Box

_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


@dataclass(frozen=True)
class Cut:
    """How images are cut into sub-images: BasicSR's `extract_subimages`."""

    crop: int  # the side of the squares
    step: int  # from one to the next
    # At the right and at the bottom, one more is cut flush with the edge if more than so many pixels are left over;
    # BasicSR's `thresh_size`.
    threshold: int = 0

    def boxes(self, height: int, width: int) -> list[Box]:
        """Return the sub-images of an image, row by row; where it is smaller than the crop, it is not cut there."""
        return [
            (top, left, min(self.crop, height), min(self.crop, width))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def leaves_whole(self, height: int, width: int) -> bool:
        """Whether an image of this size is not cut at all."""
        return max(height, width) <= self.crop

    def _starts(self, length: int) -> list[int]:
        if length <= self.crop:
            return [0]
        starts = list(range(0, length - self.crop + 1, self.step))
        if length - (starts[-1] + self.crop) > self.threshold:
            starts.append(length - self.crop)
        return starts


@dataclass(frozen=True)
class Value:
    """An encoded image."""

    data: bytes  # the content of an image file
    shape: tuple[int, int, int]  # its height, width and channels, alpha included
    box: Box | None = None  # the part of the source image; None for all of it
    sha256: str = field(init=False)  # the hash of `data`

    def __post_init__(self) -> None:
        """Hash here, where it is done in the thread that encodes."""
        object.__setattr__(self, "sha256", hashlib.sha256(self.data).hexdigest())


def encode_image(data: bytes, source: str, cut: Cut | None = None) -> list[Value]:
    """Make the values of an image file: the image, or its sub-images.

    A PNG that is not cut and has no EXIF stays as it is, once it has proved to be whole. All else is decoded and
    becomes PNG: grey and 16-bit stay so, floats become 16-bit, alpha is dropped, and the EXIF orientation is applied.
    Readers drop the alpha of a PNG as well, so both ways show the same picture.

    Raises:
        InputError: If it cannot be decoded; see `decode_raw`.
    """
    if data.startswith(_PNG_START) and b"eXIf" not in data:  # which may say that the picture is to be turned
        width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
        if cut is None or cut.leaves_whole(height, width):
            return [Value(data, shape_of(data, source))]
    image = decode_raw(data, source, keep_grey=True)
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else 3
    if cut is None or cut.leaves_whole(height, width):
        return [Value(encode_png(image), (height, width, channels))]
    return [
        Value(encode_png(image[top : top + high, left : left + wide]), (high, wide, channels), (top, left, high, wide))
        for top, left, high, wide in cut.boxes(height, width)
    ]


def shape_of(data: bytes, source: str) -> tuple[int, int, int]:
    """Decode an image to see that it is whole; returns its height, width and channels, alpha included.

    Raises:
        InputError: If it cannot be decoded.
    """
    image = decode_stored(data, source)
    return (image.shape[0], image.shape[1], 1 if image.ndim == 2 else image.shape[2])
