"""What a file says of itself before its pixels are decoded."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from PIL import JpegImagePlugin

from nlcl_plugin.data.photograph import png, tiff, xmp
from nlcl_plugin.data.photograph.exif import orientation_of
from nlcl_plugin.data.photograph.pillow import open_header

_PPM = re.compile(rb"P([56])(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)(?:\s|#[^\n]*\n)+(\d+)\s")


@dataclass
class Header:
    """What a file says of itself.

    Attributes:
        height: In pixels as they are stored.
        width: The same.
        deep: Whether the values have more than eight bits.
        grey: Whether there is one channel besides alpha; not for what Pillow decodes.
        transparent: The value of grey that stands for full transparency, as the pixels are decoded.
        pictures: The number of frames or pages.
        orientation: 1 to 8, as in EXIF.
        icc: The colour profile.
        exif: The EXIF block as it is in the file.
        xmp: The XMP packet as it is in the file.
        settings: What the encoder will need.
        notes: What will be lost.
        tags: More, of a TIFF file.
    """

    height: int
    width: int
    deep: bool = False
    grey: bool = False
    transparent: int | None = None
    pictures: int = 1
    orientation: int = 1
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    tags: tiff.Tags | None = None


def header_of(data: bytes, kind: str) -> Header:
    """Read a header.

    Args:
        data: The file.
        kind: Its format.

    Raises:
        Exception: What the libraries raise for broken files.
    """
    header = _READERS[kind](data)
    if header.exif:
        header.exif = header.exif.removeprefix(b"Exif\0\0")
        header.orientation = orientation_of(header.exif)
    return header


def _png(data: bytes) -> Header:
    chunks = png.chunks_of(data)
    name, body = chunks[0]
    if name != b"IHDR" or len(body) != 13:
        raise ValueError("it does not begin with a header")
    found = dict(reversed(chunks))
    key = found.get(b"tRNS", b"")
    packets = [body for name, body in chunks if name == b"iTXt" and body.startswith(xmp.PNG_KEYWORD)]
    return Header(
        height=int.from_bytes(body[4:8], "big"),
        width=int.from_bytes(body[:4], "big"),
        deep=body[8] == 16,
        grey=body[9] in (0, 4),
        transparent=_decoded(key, body[8]) if body[9] == 0 and len(key) == 2 else None,
        pictures=int.from_bytes(found.get(b"acTL", b"\0\0\0\1")[:4], "big"),
        icc=png.profile_of(found[b"iCCP"]) if b"iCCP" in found else None,
        exif=found.get(b"eXIf"),
        xmp=xmp.of_chunk(packets[0]) if packets else None,
        settings={"chunks": png.kept(chunks)},
        notes=["its palette becomes RGB"] if body[9] == 3 else [],
    )


def _decoded(grey: bytes, bits: int) -> int:
    value, largest = int.from_bytes(grey, "big"), (1 << bits) - 1
    return (value & largest) * (255 // largest or 1)


def _jpeg(data: bytes) -> Header:
    image = open_header(data, "JPEG")
    header = _pillow(image)
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    header.settings |= {
        "tables": [list(table) for _, table in sorted(image.quantization.items())],
        "subsampling": JpegImagePlugin.get_sampling(image),
        "progressive": bool(image.info.get("progressive")),
    }
    segments = (content for name, content in image.applist if name == "APP1" and content.startswith(xmp.JPEG_MARK))
    header.xmp = next((content.removeprefix(xmp.JPEG_MARK) for content in segments), None)
    if "mp" in image.info:  # stereo pairs, or what a phone needs for high dynamic range
        header.notes.append("only the first of its pictures is kept")
    return header


def _webp(data: bytes) -> Header:
    image = open_header(data, "WebP")
    header = _pillow(image)
    header.xmp = image.info.get("xmp") or None
    at, names = 12, set()
    while at + 8 <= len(data):
        names.add(data[at : at + 4])
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    header.settings["lossless"] = b"VP8L" in names
    return header


def _tiff(data: bytes) -> Header:
    tags = tiff.tags_of(data)
    header = Header(*tags.size, deep=tags.deep, pictures=tags.pages, icc=tags.icc, xmp=tags.xmp, tags=tags)
    header.grey = tags.photometric != tiff.RGB
    header.orientation = 1 if tags.big else orientation_of(data)
    header.settings["associated"] = tags.associated and tags.deep  # Pillow takes the others apart
    try:
        header.exif = tiff.exif_of(data)
    except Exception:  # Pillow raises nearly anything for broken tags, and the picture may be whole
        header.notes.append("its broken EXIF is dropped")
    return header


def _bmp(data: bytes) -> Header:
    return _pillow(open_header(data, "BMP"))


def _ppm(data: bytes) -> Header:
    found = _PPM.match(data)
    if not found:
        raise ValueError("its header is broken")
    width, height, largest = (int(number) for number in found.groups()[1:])
    if largest > 255 and largest != 65535:
        raise ValueError(f"its values go up to {largest}, expected up to 255 or 65535")
    return Header(height, width, deep=largest > 255, grey=found[1] == b"5")


def _pillow(image: Any) -> Header:
    header = Header(
        image.height,
        image.width,
        pictures=getattr(image, "n_frames", 1),
        icc=image.info.get("icc_profile") or None,
        exif=image.info.get("exif") or None,
    )
    if dpi := _resolution(image.info.get("dpi")):
        header.settings["dpi"] = dpi
    return header


def _resolution(dpi: Any) -> tuple[int, int] | None:
    try:
        across, down = (round(float(value)) for value in dpi)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return (across, down) if 0 < across < 1 << 16 and 0 < down < 1 << 16 else None


_READERS: dict[str, Callable[[bytes], Header]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WebP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
    "PPM": _ppm,
}
