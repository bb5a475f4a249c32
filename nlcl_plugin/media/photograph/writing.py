"""Write photographs as the file was that they came from."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, JpegImagePlugin

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.data.image_io import PNG_OPTIONS
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import png, tiff, xmp
from nlcl_plugin.media.photograph.model import Photograph

_QUALITY = 95  # of JPEG and lossy WebP; above it files grow fast and nothing can be seen
_LONGEST_EXIF = 65_000  # bytes; a JPEG holds it in one segment


def write_photograph(path: str | os.PathLike[str], rgb: np.ndarray, like: Photograph) -> None:
    """Write new pixels in the file format, depth and colour space of a photograph, with what belongs to it.

    A reader sees the old file or the whole new one, never a part. Missing folders are made. The format is that of
    `like`, whatever the name ends in. See `encode_photograph` for how.

    Args:
        path: The file.
        rgb: (H, W, 3) RGB of the type of `like.rgb`, or floats in [0, 1].
        like: What was read.

    Raises:
        InputError: If the file cannot be written.
        ValueError: If the shape or type of `rgb` is another or a value is not finite.
    """
    data = encode_photograph(rgb, like)
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error


def encode_photograph(rgb: np.ndarray, like: Photograph) -> bytes:
    """Encode new pixels as the file of a photograph was.

    Floats are rounded to its depth. A grey file gets the mean of the three channels, which were equal before. PNG,
    TIFF (Deflate), BMP, PPM and lossless WebP are exact. A JPEG keeps its chroma subsampling and is quantised by the
    finer, entry by entry, of its own tables and those of quality 95; a lossy WebP gets quality 95.

    Args:
        rgb: (H, W, 3) RGB of the type of `like.rgb`, or floats in [0, 1].
        like: What was read.

    Returns:
        The content of the file.

    Raises:
        ValueError: If the shape or type of `rgb` is another or a value is not finite.
    """
    if rgb.shape != like.rgb.shape:
        raise ValueError(f"expected an image of shape {like.rgb.shape}, got {rgb.shape}")
    whole = like.rgb.dtype != np.float32
    pixels = rgb
    if np.issubdtype(rgb.dtype, np.floating):
        if not np.isfinite(rgb).all():
            raise ValueError("the image has values that are not finite")
        pixels = np.clip(rgb, 0, 1)
        if whole:
            pixels = pixels * np.float32(np.iinfo(like.rgb.dtype).max)
    elif rgb.dtype != like.rgb.dtype:
        raise ValueError(f"expected an image of {like.rgb.dtype} or of floats, got {rgb.dtype}")
    if like.grey:
        pixels = pixels.mean(axis=2, keepdims=True, dtype=np.float64)
    if pixels.dtype != like.rgb.dtype:
        pixels = (np.rint(pixels) if whole else pixels).astype(like.rgb.dtype)
    if like.alpha is not None:
        pixels = np.dstack([pixels, like.alpha])
    return _ENCODERS[like.kind](np.ascontiguousarray(pixels), like)


def _png(pixels: np.ndarray, like: Photograph) -> bytes:
    chunks = list(like.settings.get("chunks", ()))
    icc = like.icc
    if pixels.shape[2] == 2 and pixels.dtype == np.uint16:  # OpenCV writes no grey with alpha, and Pillow no 16 bits
        pixels, icc = pixels[..., [0, 0, 0, 1]], None  # a profile of grey does not fit RGB
    data = _save(pixels, "PNG") if pixels.shape[2] == 2 else _opencv(pixels, ".png", PNG_OPTIONS)
    if icc:
        chunks.insert(0, png.profile_chunk(icc))
    if like.exif:
        chunks.append((b"eXIf", like.exif))
    if like.xmp:
        chunks.append(xmp.chunk(like.xmp))
    return png.with_chunks(data, chunks)


def _jpeg(pixels: np.ndarray, like: Photograph) -> bytes:
    options: dict[str, Any] = {"progressive": like.settings.get("progressive", False)}
    tables = like.settings.get("tables", ())
    fine = _fine_tables()
    if pixels.shape[2] == 3:
        sampling = like.settings.get("subsampling", -1)
        options["subsampling"] = sampling if sampling in (0, 1, 2) else 0
    else:
        fine = fine[:1]
    # A file may have one table for all channels.
    own = [tables[min(number, len(tables) - 1)] for number in range(len(fine))] if tables else fine
    options["qtables"] = [[min(pair) for pair in zip(*both, strict=True)] for both in zip(own, fine, strict=True)]
    if like.exif and len(like.exif) < _LONGEST_EXIF:
        options["exif"] = b"Exif\0\0" + like.exif
    if like.xmp:
        options["extra"] = xmp.segment(like.xmp)
    return _save(pixels, "JPEG", icc_profile=like.icc, **_dpi(like), **options)


@cache
def _fine_tables() -> list[list[int]]:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", quality=_QUALITY)
    image = JpegImagePlugin.JpegImageFile(io.BytesIO(file.getvalue()))
    return [list(table) for _, table in sorted(image.quantization.items())]


def _webp(pixels: np.ndarray, like: Photograph) -> bytes:
    options = {"lossless": like.settings.get("lossless", False), "quality": _QUALITY, "exact": True}
    if options["lossless"]:
        options["quality"] = 75  # here the effort, not what is kept
    if like.exif:
        options["exif"] = like.exif
    if like.xmp:
        options["xmp"] = like.xmp
    return _save(pixels, "WEBP", icc_profile=like.icc, **options)


def _bmp(pixels: np.ndarray, like: Photograph) -> bytes:
    if pixels.shape[2] == 4:  # Pillow writes a header that says nothing of alpha
        return _opencv(pixels, ".bmp")
    return _save(pixels, "BMP", **_dpi(like))


def _ppm(pixels: np.ndarray, like: Photograph) -> bytes:
    return _opencv(pixels, ".ppm" if pixels.shape[2] == 3 else ".pgm")


def _save(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, kind, **options)
    return file.getvalue()


def _opencv(pixels: np.ndarray, ending: str, options: Sequence[int] = ()) -> bytes:
    order = [0] if pixels.shape[2] == 1 else [2, 1, 0, 3][: pixels.shape[2]]
    done, encoded = cv2.imencode(ending, pixels[..., order], options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {ending}")
    return encoded.tobytes()


def _dpi(like: Photograph) -> dict[str, Any]:
    return {"dpi": like.settings["dpi"]} if "dpi" in like.settings else {}


_ENCODERS: dict[str, Callable[[np.ndarray, Photograph], bytes]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "WebP": _webp,
    "TIFF": tiff.encode,
    "BMP": _bmp,
    "PPM": _ppm,
}
