"""Read photographs of any format, depth and kind of colour, the right way up."""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tifffile
from PIL import BmpImagePlugin, Image, JpegImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin

from nlcl_plugin.data.image_io import checked_values, decode_stored, read_bytes
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import png
from nlcl_plugin.media.photograph.exif import exif_of_tiff, orientation_of, set_upright, turned, xmp_upright

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else it writes every odd tag to stderr

_PPM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")
_ICC, _XMP, _DNG = 34675, 700, 50706  # tags of TIFF
_MASK, _REDUCED = 4, 1  # kinds of pages of TIFF
_GREY, _RGB = 1, 2  # photometric interpretations of TIFF
_DEEP = {(16, 1), (32, 3), (64, 3)}  # bits and TIFF's number for unsigned or floats

# Not by way of Image.open, which takes some JPEGs for animations and has a limit of pixels of its own.
_OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
MAX_PIXELS = 200_000_000  # what the largest phone cameras take; a file that says more may be made to fill the memory

_SIGNATURES = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WebP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II\*\0|MM\0\*"),
    "BMP": re.compile(rb"BM"),
    "PPM": re.compile(rb"P[56]\s"),
}


@dataclass(frozen=True)
class Photograph:
    """A photograph, the right way up, and what its file is written with again.

    Attributes:
        rgb: (H, W, 3) RGB of uint8, uint16, or float32 in [0, 1].
        alpha: (H, W) opacity of the same type, or None.
        grey: Whether the file has one channel of brightness; the three of `rgb` are then equal.
        kind: The format of the content, whatever the name says: PNG, JPEG, WebP, TIFF, BMP or PPM.
        icc: The ICC colour profile of `rgb`, or None.
        exif: The EXIF block (a TIFF header and its tags), with orientation 1 and no thumbnail, or None.
        xmp: The XMP packet, with orientation 1, or None.
        settings: What its encoder needs to write the file as it was; the keys differ between formats.
        notes: What could not be kept, a phrase each, for the user to see.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    grey: bool
    kind: str
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_photograph(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Read a photograph (PNG, JPEG, WebP, TIFF, BMP, or binary PPM or PGM) with its metadata.

    The content decides on the format, not the name. The orientation noted in EXIF is applied to the pixels. Palettes
    become RGB, fewer than eight bits become eight. Of several pictures in one JPEG the first is taken. What is lost is
    listed in `notes`. Images of more than `max_pixels` are refused by their header.

    Raises:
        InputError: If the file cannot be read, is broken, too large, an animation, has several pages, or is of a kind
            that is not supported.
    """
    source = os.fspath(path)
    data = read_bytes(path)
    try:
        return _decode(data, source, max_pixels)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # decoders raise nearly anything for broken files
        text = re.sub(r" \(\d+ bytes not processed\)", "", str(error))  # Pillow's
        reason = " ".join(text.split())[:200] or type(error).__name__
        raise InputError(f"{source}: cannot be decoded as an image ({reason}); repair or replace it") from error


def _decode(data: bytes, source: str, max_pixels: int) -> Photograph:
    kind = _kind(data, source)
    header = _header(data, kind)
    size = f"{header.width} × {header.height} pixels"
    if header.height * header.width > max_pixels:
        raise InputError(f"{source}: is {size}, the limit is {max_pixels}; make it smaller, or raise max_pixels")
    if header.pictures != 1:
        what = "pages; split it" if kind == "TIFF" else "frames; convert it to a video"
        raise InputError(f"{source}: is a {kind} file, expected one picture but it has {header.pictures} {what}")

    if kind == "TIFF" and header.orientation != 1:  # decoders disagree on who turns the pixels
        data = set_upright(data) or data
    # Pillow has no 16-bit colours, and fills what is missing of a PNG with black.
    decode = _by_opencv if header.deep or kind == "PNG" else _by_pillow
    pixels = decode(data, kind, header, source)
    pixels = turned(pixels, header.orientation)
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    exif = set_upright(header.exif) if header.exif else None
    if header.exif and not exif:
        header.notes.append("its broken EXIF is dropped")
    xmp = xmp_upright(header.xmp) if header.xmp else None
    if header.xmp and not xmp:
        header.notes.append("its XMP, which is broken or speaks of other parts of the file, is dropped")
    return Photograph(
        rgb=np.ascontiguousarray(pixels[..., :colours] if colours == 3 else pixels[..., :1].repeat(3, axis=2)),
        alpha=np.ascontiguousarray(pixels[..., -1]) if colours < pixels.shape[2] else None,
        grey=header.grey,
        kind=kind,
        icc=header.icc,
        exif=exif,
        xmp=xmp,
        settings=header.settings,
        notes=tuple(header.notes),
    )


def _kind(data: bytes, source: str) -> str:
    if not data:
        raise InputError(f"{source}: empty, expected an image; remove or replace it")
    for kind, signature in _SIGNATURES.items():
        if signature.match(data):
            return kind
    raise InputError(f"{source}: is no PNG, JPEG, WebP, TIFF, BMP or PPM image; convert it")


def _by_pillow(data: bytes, kind: str, header: _Header, source: str) -> np.ndarray:
    """Decode to (H, W, C), and note in the header whether the file is grey."""
    image = _OPENERS[kind](io.BytesIO(data))
    image.info.pop("xmp", None)  # by whose orientation Pillow turns a TIFF
    image.load()
    mode = image.mode
    if mode in ("P", "PA"):
        header.notes.append("its palette becomes RGB")
    elif mode not in ("1", "L", "LA", "RGB", "RGBA", "YCbCr"):
        raise InputError(f"{source}: has colours of the kind {mode}, expected grey or RGB; convert it")
    header.grey = mode in ("1", "L", "LA")
    image = image.convert(("L" if header.grey else "RGB") + "A" * image.has_transparency_data)
    return np.asarray(image).reshape(image.height, image.width, -1)


def _by_opencv(data: bytes, kind: str, header: _Header, source: str) -> np.ndarray:
    """Decode to (H, W, C)."""
    pixels = decode_stored(data, source)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
    return checked_values(pixels, source)


@dataclass
class _Header:
    """What a file says of itself; the rest is as in `Photograph`."""

    height: int  # in pixels as they are stored
    width: int
    deep: bool = False  # the values have more than eight bits
    grey: bool = False  # not known yet of what Pillow decodes
    pictures: int = 1  # frames or pages
    orientation: int = 1  # 1 to 8, as in EXIF
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _header(data: bytes, kind: str) -> _Header:
    readers = {"PNG": _png, "JPEG": _jpeg, "WebP": _webp, "TIFF": _tiff, "PPM": _ppm}
    header = readers[kind](data) if kind in readers else _pillow(_OPENERS[kind](io.BytesIO(data)))
    if header.exif:
        header.exif = header.exif.removeprefix(b"Exif\0\0")
        header.orientation = orientation_of(header.exif)
    return header


def _png(data: bytes) -> _Header:
    chunks = png.chunks_of(data)
    (name, head), found = chunks[0], dict(reversed(chunks))
    if name != b"IHDR" or len(head) != 13:
        raise ValueError("it does not begin with a header")
    header = _Header(
        height=int.from_bytes(head[4:8], "big"),
        width=int.from_bytes(head[:4], "big"),
        deep=head[8] == 16,
        grey=head[9] in (0, 4),
        pictures=int.from_bytes(found.get(b"acTL", b"\0\0\0\1")[:4], "big"),
        icc=png.profile_of(chunks),
        exif=found.get(b"eXIf"),
        xmp=png.xmp_of(chunks),
        settings={"chunks": png.kept(chunks)},
    )
    if head[9] == 3:
        header.notes.append("its palette becomes RGB")
    return header


def _jpeg(data: bytes) -> _Header:
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
    header = _pillow(image)
    header.settings |= {
        "tables": [list(table) for _, table in sorted(image.quantization.items())],
        "subsampling": JpegImagePlugin.get_sampling(image),
    }
    if "mp" in image.info:  # stereo pairs, or what a phone needs for high dynamic range
        header.notes.append("only the first of its pictures is kept")
    return header


def _webp(data: bytes) -> _Header:
    header = _pillow(_OPENERS["WebP"](io.BytesIO(data)))
    header.settings["lossless"] = b"VP8L" in data  # a false alarm costs some bytes alone
    return header


def _tiff(data: bytes) -> _Header:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0].aspage()
        if _DNG in page.tags:
            raise ValueError("it is a camera's raw file (DNG), which has to be developed first")
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > len(data):
            raise ValueError("the file ends too early")
        kind, samples = (int(page.bitspersample), int(page.sampleformat)), int(page.samplesperpixel)
        deep = kind[0] > 8 or kind[1] != 1
        usual = {_GREY: (1,), _RGB: (3, 4)}.get(int(page.photometric), ())
        if deep and not (kind in _DEEP and samples in usual and (samples == 1 or int(page.planarconfig) == 1)):
            raise ValueError(
                f"its {samples} channels of {kind[0]} bits are not supported, expected grey, RGB or RGBA of 8, 16 "
                "bits or floats, with the channels of a pixel side by side"
            )
        header = _Header(
            height=int(page.imagelength),
            width=int(page.imagewidth),
            deep=deep,
            grey=page.photometric != _RGB,
            pictures=sum(not int(other.aspage().subfiletype) & (_REDUCED | _MASK) for other in file.pages),
            icc=_bytes(page.tags.valueof(_ICC)),
            xmp=_bytes(page.tags.valueof(_XMP)),
            settings={"associated": deep and 1 in page.extrasamples},  # Pillow takes the others apart
        )
    try:
        header.exif = exif_of_tiff(data)
    except Exception:  # Pillow raises nearly anything for broken tags, and the picture may be whole
        header.notes.append("its broken EXIF is dropped")
    header.orientation = orientation_of(data)
    return header


def _bytes(value: Any) -> bytes | None:
    return value if isinstance(value, bytes) and value else None


def _ppm(data: bytes) -> _Header:
    found = _PPM.match(data)
    if not found:
        raise ValueError("its header is broken")
    width, height, largest = (int(number) for number in found.groups()[1:])
    if largest > 255 and largest != 65535:
        raise ValueError(f"its values go up to {largest}, expected up to 255 or 65535")
    return _Header(height, width, deep=largest > 255, grey=found[1] == b"5")


def _pillow(image: Image.Image) -> _Header:
    return _Header(
        image.height,
        image.width,
        pictures=getattr(image, "n_frames", 1),
        icc=image.info.get("icc_profile") or None,
        exif=image.info.get("exif") or None,
        xmp=image.info.get("xmp") or None,
    )
