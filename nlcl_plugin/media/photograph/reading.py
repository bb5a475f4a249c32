"""Read photographs of any format, depth and kind of colour, the right way up."""

from __future__ import annotations

import io
import os
import re
import stat

import numpy as np
from PIL import Image, ImageCms

from nlcl_plugin.data.image_io import checked_values, decode_stored, read_bytes
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import tiff
from nlcl_plugin.media.photograph.exif import set_upright, turned
from nlcl_plugin.media.photograph.headers import Header, header_of
from nlcl_plugin.media.photograph.model import MAX_PIXELS, Photograph
from nlcl_plugin.media.photograph.pillow import load, open_header
from nlcl_plugin.media.photograph.xmp import set_upright as upright_xmp

_BYTES_A_PIXEL, _BYTES_BESIDES = 16, 64 << 20  # no file of an image is larger: four floats a pixel, and its tags
_SIGNATURES = {
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "WebP": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II\*\0|MM\0\*|II\+\0|MM\0\+"),
    "BMP": re.compile(rb"BM"),
    "PPM": re.compile(rb"P[56]\s"),
}
_OTHERS = {
    "a GIF": re.compile(rb"GIF8"),
    "a HEIC or AVIF image": re.compile(rb".{4}ftyp(heic|heix|mif1|msf1|avif|avis)", re.DOTALL),
    "a JPEG XL image": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    "a JPEG 2000 image": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "a Photoshop file": re.compile(rb"8BPS"),
    "an OpenEXR image": re.compile(rb"v/1\x01"),
    "a PDF": re.compile(rb"%PDF"),
    "a video": re.compile(rb".{4}ftyp|\x1aE\xdf\xa3|RIFF.{4}AVI ", re.DOTALL),
}


def read_photograph(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Photograph:
    """Read a photograph with what belongs to it.

    The content decides on the format, not the name. The orientation noted in EXIF is applied to the pixels. Palettes
    become RGB, CMYK becomes sRGB (by its colour profile if it has one), fewer than eight bits become eight. Of several
    pictures in one JPEG the first is taken. What gets lost in this is said in `notes`.

    Args:
        path: The file: PNG, JPEG, WebP, TIFF, BMP, or binary PPM or PGM.
        max_pixels: The largest image to decode; larger ones are refused by their header.

    Returns:
        The photograph.

    Raises:
        InputError: If the file cannot be read, is broken, too large, an animation, has several pages, or is of a kind
            that is not supported.
    """
    source = os.fspath(path)
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", error)
        raise InputError(f"{source}: cannot be read ({reason}); expected an image file") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{source}: is not a file, expected an image; correct the path")
    if status.st_size > _BYTES_A_PIXEL * max_pixels + _BYTES_BESIDES:
        raise InputError(
            f"{source}: has {status.st_size} bytes, more than an image within the limit of {max_pixels} pixels can; "
            "make it smaller, or raise max_pixels"
        )
    data = read_bytes(path)
    try:
        return _decode(data, source, max_pixels)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{source}: needs more memory than there is; make it smaller") from error
    except Exception as error:  # decoders raise nearly anything for broken files
        told = isinstance(error, (ValueError, OSError, SyntaxError)) and " ".join(str(error).split())
        reason = told or "its structure is broken"
        raise InputError(f"{source}: cannot be decoded as an image ({reason}); mend or replace it") from error


def _decode(data: bytes, source: str, max_pixels: int) -> Photograph:
    kind = _kind(data, source)
    header = header_of(data, kind)
    size = f"{header.width} × {header.height} pixels"
    if header.height < 1 or header.width < 1:
        raise InputError(f"{source}: is {size}, expected at least 1 × 1; replace it")
    if header.height * header.width > max_pixels:
        raise InputError(f"{source}: is {size}, the limit is {max_pixels}; make it smaller, or raise max_pixels")
    if header.pictures != 1:
        what = "pages; split it" if kind == "TIFF" else "frames; convert it to a video"
        raise InputError(f"{source}: is a {kind} file, expected one picture but it has {header.pictures} {what}")

    if kind == "TIFF" and header.orientation != 1:  # decoders disagree on who turns the pixels
        data = set_upright(data) or data
    # Pillow holds no 16-bit colours, and fills what is missing of a PNG with black.
    decode = _by_opencv if header.deep or kind == "PNG" else _by_pillow
    pixels, grey = decode(data, kind, header, source)
    if pixels.shape[:2] != (header.height, header.width):
        raise InputError(f"{source}: is not {size} as its header says; it is broken, replace it")

    pixels = turned(pixels, header.orientation)
    colours = pixels.shape[2] - (pixels.shape[2] in (2, 4))
    exif = set_upright(header.exif) if header.exif else None
    if header.exif and not exif:
        header.notes.append("its broken EXIF is dropped")
    xmp = upright_xmp(header.xmp, header.orientation) if header.xmp else None
    if header.xmp and not xmp:
        header.notes.append("its XMP, which is broken or speaks of other parts of the file, is dropped")
    return Photograph(
        rgb=np.ascontiguousarray(pixels[..., :colours] if colours == 3 else pixels[..., :1].repeat(3, axis=2)),
        alpha=np.ascontiguousarray(pixels[..., -1]) if colours < pixels.shape[2] else None,
        grey=grey,
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
    start = data[:32]
    for kind, signature in _SIGNATURES.items():
        if signature.match(start):
            return kind
    what = next((what for what, signature in _OTHERS.items() if signature.match(start)), "of an unknown kind")
    raise InputError(f"{source}: is {what}, expected a PNG, JPEG, WebP, TIFF, BMP or PPM image; convert it")


def _by_pillow(data: bytes, kind: str, header: Header, source: str) -> tuple[np.ndarray, bool]:
    """Decode to (H, W, C), and say whether the file is grey."""
    image = open_header(data, kind)
    image.info.pop("xmp", None)  # by whose orientation Pillow turns a TIFF
    load(image)
    mode = image.mode
    if mode == "CMYK":
        header.notes.append("its CMYK colours become sRGB")
        image, header.icc = _srgb(image), None
    elif image.has_transparency_data:
        image = image.convert("LA" if mode in ("1", "L", "LA") else "RGBA")
    elif mode in ("1", "L"):
        image = image.convert("L")
    elif mode in ("P", "RGB", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    else:
        raise InputError(f"{source}: has colours of the kind {mode}, expected grey, RGB or CMYK; convert it")
    if mode in ("P", "PA"):
        header.notes.append("its palette becomes RGB")
    if mode == "RGBX":
        header.notes.append("its fourth channel is dropped")
    pixels = np.asarray(image)
    return pixels.reshape(*pixels.shape[:2], -1), image.mode in ("L", "LA")


def _srgb(image: Image.Image) -> Image.Image:
    if profile := image.info.get("icc_profile"):
        try:
            cmyk = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, cmyk, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError, ValueError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _by_opencv(data: bytes, kind: str, header: Header, source: str) -> tuple[np.ndarray, bool]:
    """The same with OpenCV."""
    if header.tags:
        pixels = tiff.decode_deep(data, header.tags, lambda: decode_stored(data, source))
    else:
        pixels = decode_stored(data, source)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]
        if pixels.dtype != (np.uint16 if header.deep else np.uint8):
            raise ValueError(f"it has {pixels.dtype} pixels, and its header says others")
        if header.transparent is not None:  # OpenCV ignores it, and Pillow is right for 8 bits only
            opacity = (pixels != header.transparent) * np.iinfo(pixels.dtype).max
            pixels = np.dstack([pixels, opacity.astype(pixels.dtype)])
    return checked_values(pixels, source), header.grey
