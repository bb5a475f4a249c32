"""TIFF files: what their tags say, and writing them with any depth and all that belongs to them.

Pillow holds no 16-bit or float RGB, and OpenCV keeps no tags, so that Pillow's directory of tags is written around
pixels compressed here.
"""

from __future__ import annotations

import io
import logging
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from nlcl_plugin.media.photograph.model import Photograph
from nlcl_plugin.media.photograph.pillow import without_pixel_limit

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else it tells stderr of every odd tag

RGB = 2  # photometric interpretation; 0 and 1 are grey, where 0 is white for 0
_ICC, _EXIF, _GPS, _INTEROP, _DNG, _XMP = 34675, 34665, 34853, 40965, 50706, 700
_KEPT = (
    270,
    271,
    272,
    274,
    282,
    283,
    296,
    305,
    306,
    315,
    316,
    33432,
    _EXIF,
    _GPS,
)  # those that hold for other pixels too
_MASK, _REDUCED = 4, 1
_TYPES = {(16, 1), (32, 3), (64, 3)}  # bits and TIFF's number for unsigned or floats
_STRIP = 1 << 20  # bytes before compression
_LEVEL = 3  # of Deflate: half the time of the usual 6 for few more bytes


@dataclass(frozen=True)
class Tags:
    """What the first page of a TIFF file says of itself.

    Attributes:
        size: Height and width.
        pages: The number of pages that are no thumbnails or masks.
        type: The bits of a value, and TIFF's number for what they are.
        samples: The number of channels, with alpha.
        photometric: TIFF's number for what they mean.
        associated: Whether the colours are multiplied by alpha.
        interleaved: Whether the channels of a pixel lie side by side.
        plain: Whether it is not compressed.
        big: Whether it is a BigTIFF.
        icc: The colour profile, or None.
        xmp: The XMP packet, or None.
    """

    size: tuple[int, int]
    pages: int
    type: tuple[int, int]
    samples: int
    photometric: int
    associated: bool
    interleaved: bool
    plain: bool
    big: bool
    icc: bytes | None
    xmp: bytes | None

    @property
    def deep(self) -> bool:
        """Whether the values have more than eight bits, or are signed or floats."""
        return self.type[0] > 8 or self.type[1] != 1


def tags_of(data: bytes) -> Tags:
    """Read the tags.

    Args:
        data: The file.

    Raises:
        ValueError: If it is broken or a camera's raw file.
        Exception: What tifffile raises for broken files.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0].aspage()
        if _DNG in page.tags:
            raise ValueError("it is a camera's raw file (DNG), which has to be developed first")
        if file.is_bigtiff and page.tags.valueof(274, default=1) != 1:
            raise ValueError("it is a BigTIFF that is to be turned, which is not supported")
        if len(page.dataoffsets) != len(page.databytecounts):
            raise ValueError("its tags do not fit together")
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > len(data):
            raise ValueError("the file ends too early")
        profile, packet = page.tags.valueof(_ICC), page.tags.valueof(_XMP)
        return Tags(
            size=(int(page.imagelength), int(page.imagewidth)),
            pages=sum(not int(other.aspage().subfiletype) & (_REDUCED | _MASK) for other in file.pages),
            type=(int(page.bitspersample), int(page.sampleformat)),
            samples=int(page.samplesperpixel),
            photometric=int(page.photometric),
            associated=1 in page.extrasamples,
            interleaved=int(page.planarconfig) == 1 or page.samplesperpixel == 1,
            plain=int(page.compression) == 1,
            big=file.is_bigtiff,
            icc=bytes(profile) if isinstance(profile, bytes) and profile else None,
            xmp=bytes(packet) if isinstance(packet, bytes) and packet else None,
        )


def decode_deep(data: bytes, tags: Tags, stored: Callable[[], np.ndarray]) -> np.ndarray:
    """Decode values of more than eight bits.

    Args:
        data: The file.
        tags: Its tags.
        stored: Gives what OpenCV makes of it: (H, W), or (H, W, C) with blue first.

    Returns:
        (H, W, C): grey, grey and alpha, RGB, or RGB and alpha.

    Raises:
        ValueError: If the file is of a kind that no library at hand reads rightly.
        Exception: What tifffile raises for broken files.
    """
    colours = {0: 1, 1: 1, RGB: 3}.get(tags.photometric)
    if tags.type not in _TYPES or colours is None or (tags.photometric == 0 and tags.type != (16, 1)):
        raise ValueError(
            f"it has {tags.type[0]}-bit values of a TIFF of kind {tags.photometric}.{tags.type[1]}, "
            "expected 8-bit, 16-bit or float ones of grey or RGB"
        )
    if not colours <= tags.samples <= colours + 1:
        raise ValueError(f"it has {tags.samples} channels, expected {colours}, or one more for alpha")
    if tags.interleaved and tags.samples != 2:
        pixels = stored()
        pixels = pixels[..., [2, 1, 0, 3][: tags.samples]] if pixels.ndim == 3 else pixels[..., None]
    elif tags.plain:  # OpenCV takes these wrongly, and tifffile takes compressed ones without a limit of size
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            pixels = file.pages[0].asarray()
        pixels = pixels if tags.interleaved else np.moveaxis(pixels, 0, -1)
    else:
        raise ValueError("its channels are stored apart or grey with alpha, and compressed; save it otherwise")
    if pixels.shape != (*tags.size, tags.samples):
        raise ValueError("its pixels are not as its header says")
    return 65535 - pixels if tags.photometric == 0 else pixels


def encode(pixels: np.ndarray, photograph: Photograph) -> bytes:
    """Write a TIFF file without loss, in strips compressed by Deflate; deep grey with alpha is not compressed.

    Args:
        pixels: (H, W, C): grey, grey and alpha, RGB, or RGB and alpha; uint8, uint16, or float32.
        photograph: What the tags are taken of.

    Returns:
        The file.
    """
    height, width, channels = pixels.shape
    floats = pixels.dtype == np.float32
    alpha = channels in (2, 4)
    rows = max(1, _STRIP // (width * channels * pixels.itemsize))
    plain = channels == 2 and pixels.itemsize > 1  # else we could not read it again
    differences = not (floats or plain)
    strips = []
    for start in range(0, height, rows):
        strip = _bytes(pixels[start : start + rows], differences)
        strips.append(strip if plain else zlib.compress(strip, _LEVEL))

    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if photograph.exif:
        for tag, value in _directory(photograph.exif).items():
            tags[tag] = value
    if photograph.icc:
        tags.tagtype[_ICC] = 7  # bytes
        tags[_ICC] = photograph.icc
    if photograph.xmp:
        tags.tagtype[_XMP] = 1
        tags[_XMP] = photograph.xmp
    tags[256], tags[257] = width, height
    tags[258] = (pixels.itemsize * 8,) * channels
    tags[259] = 1 if plain else 8  # Deflate
    tags[262] = RGB if channels > 2 else 1
    tags[277], tags[278], tags[284] = channels, rows, 1
    tags[317] = 2 if differences else 1  # each value as the difference to its left neighbour
    if alpha:
        tags[338] = 1 if photograph.settings.get("associated") else 2
    tags[339] = (3 if floats else 1,) * channels
    # Pillow adds the length of the directory to these.
    tags.tagtype[273] = tags.tagtype[279] = 4
    tags[273] = tuple(accumulate((len(strip) for strip in strips[:-1]), initial=0))
    tags[279] = tuple(len(strip) for strip in strips)
    file = io.BytesIO()
    tags.save(file)
    file.writelines(strips)
    return file.getvalue()


def _bytes(pixels: np.ndarray, differences: bool) -> bytes:
    if differences:
        pixels = np.concatenate([pixels[:, :1], pixels[:, 1:] - pixels[:, :-1]], axis=1)  # modulo 2^bits
    return pixels.astype(pixels.dtype.newbyteorder("<")).tobytes()


def exif_of(data: bytes) -> bytes | None:
    """Take those tags out of a TIFF file that say something of the photograph, not of how it is stored.

    Args:
        data: The file.

    Returns:
        An EXIF block; None if there are none.

    Raises:
        Exception: What Pillow raises for broken tags.
    """
    found, kept = Image.Exif(), Image.Exif()
    with without_pixel_limit():
        found.load_from_fp(io.BytesIO(data), None)
        for tag in _KEPT:
            if tag in (_EXIF, _GPS):
                inner = {key: value for key, value in found.get_ifd(tag).items() if key != _INTEROP}
                if inner:
                    kept[tag] = inner
            elif tag in found:
                kept[tag] = found[tag]
    return kept.tobytes().removeprefix(b"Exif\0\0") if len(kept) else None


def _directory(exif: bytes) -> dict[int, Any]:
    found = Image.Exif()
    with without_pixel_limit():
        found.load(b"Exif\0\0" + exif)
        return {tag: found.get_ifd(tag) if tag in (_EXIF, _GPS) else found[tag] for tag in found}
