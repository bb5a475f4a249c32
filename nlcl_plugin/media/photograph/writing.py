"""Write photographs as the file was that they came from."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.data.image_io import PNG_OPTIONS, encode
from nlcl_plugin.errors import writing_to
from nlcl_plugin.media.photograph import png
from nlcl_plugin.media.photograph.exif import EXIF, GPS, LONG, RESOLUTION, TEXTS, entries
from nlcl_plugin.media.photograph.reading import Photograph

_QUALITY = 95  # of JPEG and lossy WebP; above it files grow fast and nothing can be seen
_TABLE_SUM = 369  # of the table of brightness of a JPEG of that quality
_LONGEST_EXIF = 65_527  # bytes; a JPEG keeps it in one segment, behind six others
_XMP = 700


def write_photograph(path: str | os.PathLike[str], rgb: np.ndarray, like: Photograph) -> None:
    """Write new pixels in the file format, depth and colour space of a photograph, with its metadata.

    They are (H, W, 3) RGB of the type of `like.rgb`, or floats in [0, 1], which are rounded to its depth. A reader sees
    the old file or the whole new one, never a part. Missing folders are made. The format is that of `like`, whatever
    the name ends in. A grey file gets the mean of the three channels, which were equal before. PNG, TIFF (Deflate),
    BMP, PPM and lossless WebP are exact. A JPEG keeps its chroma subsampling and gets quality 95, or its own tables
    where these are finer; a lossy WebP gets quality 95.

    Raises:
        InputError: If the file cannot be written.
        ValueError: If the shape or type of `rgb` is another or a value is not finite.
    """
    encoders = {"PNG": _png, "JPEG": _jpeg, "WebP": _webp, "TIFF": _tiff, "BMP": _bmp, "PPM": _ppm}
    pixels = pixels_like(rgb, like.rgb)
    if like.grey:
        pixels = mean_channel(pixels)
    if like.alpha is not None:
        pixels = np.dstack([pixels, like.alpha])
    data = encoders[like.kind](np.ascontiguousarray(pixels), like)
    path = Path(path)
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)


def pixels_like(rgb: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Give an image, of floats in [0, 1] or of the type of another one, that type.

    Raises:
        ValueError: If the shape or type is another or a value is not finite.
    """
    if rgb.shape != like.shape:
        raise ValueError(f"expected an image of shape {like.shape}, got {rgb.shape}")
    if not np.issubdtype(rgb.dtype, np.floating):
        if rgb.dtype != like.dtype:
            raise ValueError(f"expected an image of {like.dtype} or of floats, got {rgb.dtype}")
        return rgb
    if not np.isfinite(rgb).all():
        raise ValueError("the image has values that are not finite")
    rgb = np.clip(rgb, 0, 1)
    if like.dtype.kind == "u":
        rgb = np.rint(rgb * np.float32(np.iinfo(like.dtype).max))
    return rgb.astype(like.dtype, copy=False)


def mean_channel(rgb: np.ndarray) -> np.ndarray:
    """The mean of the channels (H, W, 1) of an image, in its type; integers are rounded."""
    mean = rgb.mean(axis=2, keepdims=True, dtype=np.float64)
    return (np.rint(mean) if rgb.dtype.kind == "u" else mean).astype(rgb.dtype)


def _png(pixels: np.ndarray, like: Photograph) -> bytes:
    icc = like.icc
    if pixels.shape[2] == 2 and pixels.dtype == np.uint16:  # OpenCV writes no grey with alpha, and Pillow no 16 bits
        pixels, icc = pixels[..., [0, 0, 0, 1]], None  # a profile of grey does not fit RGB
    data = _save(pixels, "PNG") if pixels.shape[2] == 2 else _opencv(pixels, ".png", PNG_OPTIONS)
    return png.with_chunks(data, png.metadata_chunks(icc, like.exif, like.xmp) + like.settings.get("chunks", []))


def _jpeg(pixels: np.ndarray, like: Photograph) -> bytes:
    options: dict[str, Any] = {"quality": _QUALITY}
    tables = like.settings.get("tables")
    if tables and sum(tables[0]) < _TABLE_SUM:
        options["qtables"] = tables
    if pixels.shape[2] == 3:
        sampling = like.settings.get("subsampling", -1)
        options["subsampling"] = sampling if sampling in (0, 1, 2) else 0
    if like.exif and len(like.exif) <= _LONGEST_EXIF:
        options["exif"] = b"Exif\0\0" + like.exif
    return _save(pixels, "JPEG", icc_profile=like.icc, xmp=like.xmp or b"", **options)


def _webp(pixels: np.ndarray, like: Photograph) -> bytes:
    lossless = like.settings.get("lossless", False)
    quality = 75 if lossless else _QUALITY  # of a lossless one it is the effort
    metadata = {"icc_profile": like.icc, "exif": like.exif or b"", "xmp": like.xmp or b""}
    return _save(pixels, "WEBP", lossless=lossless, quality=quality, exact=True, **metadata)


def _tiff(pixels: np.ndarray, like: Photograph) -> bytes:
    exif = Image.Exif()
    if like.exif:
        exif.load(b"Exif\0\0" + like.exif)
    extra = [(tag, "s", 0, exif[tag].encode(), True) for tag in TEXTS if isinstance(exif.get(tag), str)]
    if like.xmp:
        extra.append((_XMP, "B", len(like.xmp), like.xmp, True))
    options: dict[str, Any] = {}
    across, down, unit = (float(exif.get(tag, 0)) for tag in RESOLUTION)
    if 0 < across < 1 << 16 and 0 < down < 1 << 16 and unit in (1, 2, 3):
        options = {"resolution": (across, down), "resolutionunit": int(unit)}
    if pixels.shape[2] in (2, 4):
        options["extrasamples"] = ["assocalpha" if like.settings.get("associated") else "unassalpha"]
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels if pixels.shape[2] > 1 else pixels[..., 0],
        byteorder="<",
        photometric="rgb" if pixels.shape[2] > 2 else "minisblack",
        planarconfig="contig" if pixels.shape[2] > 1 else None,
        compression="zlib",
        compressionargs={"level": 3},  # half the time of the usual 6 for few more bytes
        predictor=pixels.dtype != np.float32,
        metadata=None,
        software=False,
        iccprofile=like.icc,
        extratags=extra,
        **options,
    )
    return _with_directories(file.getvalue(), {tag: exif.get_ifd(tag) for tag in (EXIF, GPS)})


def _with_directories(tiff: bytes, directories: dict[int, dict[int, Any]]) -> bytes:
    """Append directories inside, which tifffile does not write, and a first directory that leads to them."""
    data = bytearray(tiff)
    tags = [(tag, data[at : at + 12]) for tag, at in entries(tiff)]
    for tag, values in directories.items():
        if values:
            directory = TiffImagePlugin.ImageFileDirectory_v2(tiff[:8], group=tag)
            for key, value in values.items():
                directory[key] = value
            data += bytes(len(data) % 2)
            tags.append((tag, bytearray(struct.pack("<HHII", tag, LONG, 1, len(data)))))
            data += directory.tobytes(len(data))
    data += bytes(len(data) % 2)
    data[4:8] = struct.pack("<I", len(data))
    return bytes(data + struct.pack("<H", len(tags)) + b"".join(entry for _, entry in sorted(tags)) + bytes(4))


def _bmp(pixels: np.ndarray, like: Photograph) -> bytes:
    if pixels.shape[2] == 4:  # Pillow writes a header that says nothing of alpha
        return _opencv(pixels, ".bmp")
    return _save(pixels, "BMP")


def _ppm(pixels: np.ndarray, like: Photograph) -> bytes:
    return _opencv(pixels, ".ppm" if pixels.shape[2] == 3 else ".pgm")


def _save(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, kind, **options)
    return file.getvalue()


def _opencv(pixels: np.ndarray, ending: str, options: Sequence[int] = ()) -> bytes:
    return encode(ending, pixels[..., [0] if pixels.shape[2] == 1 else [2, 1, 0, 3][: pixels.shape[2]]], options)
