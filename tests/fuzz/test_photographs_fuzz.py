"""Broken images end as a photograph or as one line, never otherwise, and never take much memory.

Each example is a small file of some kind after a few mutations, also such that leave its checksums right.
"""

import io
import random
import resource
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from conftest import photograph
from mutations import mutated
from PIL import Image, ImageCms, PngImagePlugin

from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import Photograph, read_photograph, write_photograph

MAX_PIXELS = 1_000_000
MEMORY = 600 << 10  # kB that the whole of it may add to the process
EXACT = ("PNG", "TIFF", "BMP", "PPM")


def _corpus():
    rgb = photograph(13, 17)
    deep = np.random.default_rng(0).integers(0, 65536, (13, 17, 4), dtype=np.uint16)
    rgba = np.dstack([rgb, rgb[..., :1]])
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "Maker"
    extra = {
        "exif": exif.tobytes(),
        "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "dpi": (300, 300),
    }

    packet = b"<x:xmpmeta tiff:Orientation='6' tiff:ImageWidth='17'>" + b"a" * 40 + b"</x:xmpmeta>"
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)

    def pillow(array, kind, **options):
        file = io.BytesIO()
        (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(file, kind, **options)
        return file.getvalue()

    def tiff(array, **options):
        file = io.BytesIO()
        tifffile.imwrite(file, array, metadata=None, **options)
        return file.getvalue()

    return [
        *(pillow(array, "PNG", **extra) for array in (rgb, rgba, rgb[..., 0])),
        pillow(Image.fromarray(rgb).quantize(9), "PNG", transparency=2),
        cv2.imencode(".png", deep)[1].tobytes(),
        pillow(rgb, "PNG", pnginfo=texts),
        pillow(rgb, "JPEG", xmp=packet, **extra),
        pillow(rgb[..., 0], "JPEG", progressive=True),
        pillow(rgba, "WEBP", lossless=True),
        pillow(rgb, "WEBP", xmp=packet, **extra),
        pillow(rgb, "TIFF", compression="tiff_lzw", **extra),
        tiff(deep, photometric="rgb", compression="zlib", extrasamples=["assocalpha"]),
        tiff(
            (deep[..., :3] / 65535).astype(np.float32),
            photometric="rgb",
            extratags=[(700, "B", None, packet), (274, "H", 1, 6)],
        ),
        pillow(rgb, "BMP"),
        cv2.imencode(".bmp", rgba)[1].tobytes(),
        pillow(rgb, "PPM"),
        cv2.imencode(".pgm", deep[..., 0])[1].tobytes(),
        pillow(rgb, "GIF"),
        b"no image",
    ]


CORPUS = _corpus()


def with_right_checksums(data):
    """Mend the lengths and checksums of a PNG file as far as it goes."""
    mended, at = bytearray(data), 8
    while data.startswith(b"\x89PNG") and at + 12 <= len(mended):
        (length,) = struct.unpack_from(">I", mended, at)
        end = min(at + 12 + length, len(mended))
        struct.pack_into(">I", mended, at, end - at - 12)
        struct.pack_into(">I", mended, end - 4, zlib.crc32(mended[at + 4 : end - 4]))
        at = end
    return bytes(mended)


def check(path, data):
    """Read a file; if that works, what is written must be the same again."""
    path.write_bytes(data)
    try:
        photo = read_photograph(path, max_pixels=MAX_PIXELS)
    except InputError as error:
        message = str(error)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        assert len(message) < 500 + len(str(path))
        return
    assert isinstance(photo, Photograph)
    height, width, channels = photo.rgb.shape
    assert channels == 3
    assert 1 <= height * width <= MAX_PIXELS
    assert photo.rgb.dtype in (np.uint8, np.uint16, np.float32)
    assert photo.rgb.min() >= 0
    assert photo.rgb.dtype != np.float32 or photo.rgb.max() <= 1
    if photo.alpha is not None:
        assert (photo.alpha.shape, photo.alpha.dtype) == (photo.rgb.shape[:2], photo.rgb.dtype)
    write_photograph(path, photo.rgb, photo)
    again = read_photograph(path, max_pixels=MAX_PIXELS)
    assert (again.rgb.shape, again.rgb.dtype, again.kind) == (photo.rgb.shape, photo.rgb.dtype, photo.kind)
    if photo.kind in EXACT or photo.settings.get("lossless"):
        np.testing.assert_array_equal(again.rgb, photo.rgb)
    assert (again.alpha is None) == (photo.alpha is None)
    assert again.icc == photo.icc or photo.alpha is not None  # deep grey PNGs with alpha lose it


@pytest.mark.parametrize("which", range(len(CORPUS)))
def test_whole_files_are_read_and_written(tmp_path, which):
    check(tmp_path / "a.png", CORPUS[which])
    if which < len(CORPUS) - 2:
        read_photograph(tmp_path / "a.png")


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_mutated_images(tmp_path, count):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    for seed in range(count):
        draw = random.Random(seed)
        data = draw.choice(CORPUS)
        for _ in range(draw.randint(1, 4)):
            splice = draw.random() < 0.2
            data = data[: draw.randrange(len(data) + 1)] + draw.choice(CORPUS)[9:] if splice else mutated(draw, data)
        check(tmp_path / "a.png", with_right_checksums(data) if draw.random() < 0.5 else data)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEMORY
