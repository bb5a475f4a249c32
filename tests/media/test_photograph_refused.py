"""What is no photograph, too large or broken ends in one line that says so."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from conftest import photograph
from PIL import Image

from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import read_photograph, write_photograph

RGB = photograph(36, 52)
DEEP = np.random.default_rng(1).integers(0, 65536, (36, 52, 4), dtype=np.uint16)


def save(path, array, kind, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, kind, **options)
    return path


def test_large_images_are_refused_by_their_header(tmp_path):
    path = save(tmp_path / "a.png", RGB, "PNG")
    with pytest.raises(InputError, match=r"a\.png: is 52 × 36 pixels, the limit is 1871; make it smaller, or raise"):
        read_photograph(path, max_pixels=52 * 36 - 1)
    assert read_photograph(path, max_pixels=52 * 36).rgb.shape == RGB.shape


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "WEBP", "JPEG"])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path, kind):
    # More than Pillow's own limit too. Two are real, the others say that they are.
    path = tmp_path / "a"
    if kind in ("PNG", "TIFF"):
        save(path, Image.new("1", (16000, 16000)), kind, compression="tiff_deflate")
    else:
        data = bytearray(save(path, RGB, kind, lossless=True).read_bytes())
        if kind == "BMP":
            data[18:26] = struct.pack("<II", 16000, 16000)
        elif kind == "WEBP":
            data[21:25] = struct.pack("<I", 15999 | 15999 << 14)
        else:
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = struct.pack(">HH", 16000, 16000)
        path.write_bytes(data)
    with pytest.raises(InputError, match=r"a: is 16000 × 16000 pixels, the limit is 200000000"):
        read_photograph(path)


def test_a_header_that_lies_is_refused(tmp_path):
    data = bytearray(save(tmp_path / "a.png", RGB, "PNG").read_bytes())
    for height in (0, 35, 37, 30_000):
        data[20:24] = struct.pack(">I", height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        (tmp_path / "a.png").write_bytes(data)
        if height == 35:  # unused rows at the end are no fault to any decoder
            assert read_photograph(tmp_path / "a.png").rgb.shape[0] == 35
            continue
        with pytest.raises(InputError, match=r"a\.png: (is 52 × 0 pixels|cannot be decoded)"):
            read_photograph(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.95])
def test_cut_files_are_refused(tmp_path, kind, part):
    whole = save(tmp_path / "a", RGB, kind).read_bytes()
    (tmp_path / "a").write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(InputError, match=r"a: (cannot be decoded as an image|is of an unknown kind)"):
        read_photograph(tmp_path / "a")


@pytest.mark.parametrize("ending", [".png", ".tif", ".ppm"])
def test_cut_16_bit_files_are_refused(tmp_path, ending):
    whole = cv2.imencode(ending, DEEP[..., :3])[1].tobytes()
    for part in (0.3, 0.7, 0.99):
        (tmp_path / "a").write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(InputError, match="cannot be decoded as an image"):
            read_photograph(tmp_path / "a")


def test_other_files_are_named(tmp_path):
    path = tmp_path / "x.png"
    for data, what in (
        (b"", "empty, expected an image"),
        (b"hello", "is of an unknown kind, expected a PNG, JPEG"),
        (b"GIF89a" + bytes(50), "is a GIF, expected"),
        (bytes(4) + b"ftypheic" + bytes(50), "is a HEIC or AVIF image"),
        (bytes(4) + b"ftypisom" + bytes(50), "is a video"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"x\.png: " + what):
            read_photograph(path)
    with pytest.raises(InputError, match=r"missing: cannot be read \(No such file"):
        read_photograph(tmp_path / "missing")
    with pytest.raises(InputError, match="is not a file, expected an image"):
        read_photograph(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: is not a file"):
        read_photograph(tmp_path / "pipe")


def test_floats_in_other_units_or_not_finite_are_refused(tmp_path):
    for value, what in ((255, r"float values from 0 to 255; expected \[0, 1\]"), (np.nan, "not finite")):
        tifffile.imwrite(tmp_path / "a.tif", np.float32([[[0, 0, value]]]), photometric="rgb")
        with pytest.raises(InputError, match=r"a\.tif: has .*" + what):
            read_photograph(tmp_path / "a.tif")


def test_deep_values_of_other_kinds_are_refused(tmp_path):
    for array in (np.zeros((4, 4, 3), np.int16), np.zeros((4, 4, 3), np.uint32), np.zeros((4, 4, 3), np.float16)):
        tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb")
        with pytest.raises(InputError, match="expected 8-bit, 16-bit or float ones"):
            read_photograph(tmp_path / "a.tif")
    (tmp_path / "a.ppm").write_bytes(b"P6\n4 4\n1023\n" + bytes(96))
    with pytest.raises(InputError, match="values go up to 1023, expected up to 255 or 65535"):
        read_photograph(tmp_path / "a.ppm")


def test_what_does_not_fit_is_not_written(tmp_path):
    like = read_photograph(save(tmp_path / "a.png", RGB, "PNG"))
    for wrong, what in ((RGB[:5], "shape"), (RGB.astype(np.uint16), "expected an image of uint8 or of floats")):
        with pytest.raises(ValueError, match=what):
            write_photograph(tmp_path / "b.png", wrong, like)
    with pytest.raises(ValueError, match="not finite"):
        write_photograph(tmp_path / "b.png", np.full(RGB.shape, np.nan, np.float32), like)
    with pytest.raises(InputError, match=r"b\.png: cannot be written \((Not a directory|File exists)\)"):
        write_photograph(tmp_path / "a.png" / "b.png", RGB, like)
    assert os.listdir(tmp_path) == ["a.png"]
