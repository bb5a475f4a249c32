import io
import os

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from nlcl_plugin.data.image_io import (
    IMAGE_SUFFIXES,
    decode_raw,
    list_files,
    list_images,
    read_image,
    to_tensor,
    to_uint8,
    write_image,
)
from nlcl_plugin.errors import InputError

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (5, 7, 4), dtype=np.uint16)


def encode(array, ending=".png"):
    """Encode RGB(A) or grey with OpenCV."""
    if array.ndim == 3:
        array = array[..., [2, 1, 0, 3][: array.shape[2]]]
    done, data = cv2.imencode(ending, array)
    assert done
    return data.tobytes()


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


class TestListImages:
    def test_lists_every_kind_in_any_case_sorted_below_sub_folders_but_nothing_hidden(self, tmp_path):
        endings = [e for suffix in IMAGE_SUFFIXES for e in (suffix, suffix.upper())]
        names = [f"{i:02d}{ending}" for i, ending in enumerate(endings)]
        names += ["b/00.png", "a/c/00.PnG", "ü mit Leerzeichen/滴.jpg", "x.png/y.png"]
        touch(tmp_path, *names, "notes.txt", "png", "x.png.txt", ".b.png", ".ipynb_checkpoints/a.png", "c/._a.png")
        assert list_images(str(tmp_path)) == sorted(names)

    def test_follows_links_without_looping(self, tmp_path):
        touch(tmp_path, "elsewhere/one.png", "root/sub/two.png")
        root = tmp_path / "root"
        (root / "file.png").symlink_to(tmp_path / "elsewhere" / "one.png")
        (root / "folder").symlink_to(tmp_path / "elsewhere")
        (root / "sub" / "up").symlink_to(root)
        (tmp_path / "elsewhere" / "back").symlink_to(root)
        assert list_images(root) == ["file.png", "folder/one.png", "sub/two.png"]

    def test_links_to_nothing_are_listed_so_that_they_are_missed_but_no_pipes(self, tmp_path):
        touch(tmp_path, "one.png")
        (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
        (tmp_path / "loop").symlink_to("loop")
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "link.png").symlink_to("pipe.png")
        assert list_files(tmp_path) == ["gone.png", "loop", "one.png"]


class TestDecode:
    @pytest.mark.parametrize(
        ("kind", "modes"),
        [
            ("PNG", ["1", "P", "L", "LA", "RGB", "RGBA"]),
            ("JPEG", ["L", "RGB", "CMYK"]),
            ("BMP", ["1", "P", "L", "RGB", "RGBA"]),
            ("TIFF", ["1", "P", "L", "LA", "RGB", "RGBA", "CMYK"]),
            ("WEBP", ["L", "RGB", "RGBA"]),
            ("PPM", ["1", "L", "RGB"]),
        ],
    )
    def test_8_bit_kinds_are_as_opencv_has_them_in_colour(self, kind, modes):
        for mode in modes:
            buffer = io.BytesIO()
            Image.fromarray(RGB).convert(mode).save(buffer, kind)
            self.assert_as_opencv(buffer.getvalue(), np.uint8)

    @pytest.mark.parametrize(("ending", "counts"), [(".png", (1, 3, 4)), (".tif", (1, 3, 4)), (".ppm", (3,))])
    def test_16_bit_kinds_are_as_opencv_has_them_in_colour_and_keep_their_steps(self, ending, counts, tmp_path):
        for count in counts:
            pixels = DEEP[..., 0] if count == 1 else DEEP[..., :count]
            self.assert_as_opencv(encode(pixels, ending), np.uint16)
            (tmp_path / "x").write_bytes(encode(pixels, ending))
            rgb = np.repeat(DEEP[..., :1], 3, axis=2) if count == 1 else DEEP[..., :3]
            np.testing.assert_array_equal(read_image(tmp_path / "x"), rgb.astype(np.float32) / 65535)

    @staticmethod
    def assert_as_opencv(data, dtype):
        image = decode_raw(data, "x")
        assert image.dtype == dtype
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        np.testing.assert_array_equal(image, expected[..., ::-1])

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, orientation):
        # 16 × 16 blocks of grey survive JPEG exactly, or nearly.
        stored = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(buffer, "JPEG", exif=exif)
        expected = np.asarray(ImageOps.exif_transpose(Image.open(buffer)).convert("RGB"))
        image = decode_raw(buffer.getvalue(), "x.jpg")
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 2

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_float_tiff_is_taken_as_it_is(self, dtype):
        values = np.random.default_rng(2).random((5, 7, 3)).astype(dtype)
        values[0, 0, 0] = 1 + 1e-6  # rounding, which is clipped
        expected = np.clip(values, 0, 1).astype(np.float32)
        np.testing.assert_array_equal(decode_raw(encode(values, ".tif"), "x.tif"), expected)

    @pytest.mark.parametrize(
        ("pixels", "message"),
        [
            (np.float32([[[0, 0, 255]]]), r"has float values from 0 to 255; expected \[0, 1\]"),
            (np.float32([[[0, 0, np.nan]]]), "has values that are not finite"),
            (RGB.astype(np.int16), "has int16 pixels; expected 8-bit, 16-bit or float"),
        ],
    )
    def test_pixels_in_other_units_or_types_are_refused(self, pixels, message):
        with pytest.raises(InputError, match=rf"odd\.tif: {message}"):
            decode_raw(encode(pixels, ".tif"), "odd.tif")

    def test_broken_files_are_refused_by_name_without_warnings_of_opencv(self, tmp_path, capfd):
        noise = encode(np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8))
        for data in (b"", b"hello", encode(RGB)[:30], encode(RGB, ".tif")[:20], noise[: len(noise) // 2]):
            (tmp_path / "雨.PNG").write_bytes(data)
            with pytest.raises(InputError, match=r"雨\.PNG: (empty|cannot be decoded)"):
                read_image(tmp_path / "雨.PNG")
        printed = capfd.readouterr().err  # libpng may speak, but not OpenCV
        assert "WARN" not in printed
        assert "ERROR" not in printed
        with pytest.raises(InputError, match=r"missing\.png: cannot be read \(No such file"):
            read_image(str(tmp_path / "missing.png"))


class TestTensors:
    def test_there_and_back_changes_nothing(self):
        every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        tensor = to_tensor(every)
        assert (tensor.dtype, tensor.shape) == (torch.float32, (3, 16, 16))
        for same in (tensor, tensor.numpy().transpose(1, 2, 0), every, torch.from_numpy(every).permute(2, 0, 1)):
            np.testing.assert_array_equal(to_uint8(same), every)

    def test_rounds_and_clips(self):
        values = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 2.0]).repeat(3, 1)[:, None]
        assert to_uint8(values)[0, :, 0].tolist() == [0, 0, 1, 255, 255]
        assert to_uint8(values.bfloat16().requires_grad_())[0, :, 0].tolist()[-1] == 255


class TestWriteImage:
    @pytest.mark.parametrize("name", ["a.png", "雨/ü.PNG", "b.bmp", "c.tif", "d.ppm"])
    def test_lossless_kinds_come_back_equal(self, tmp_path, name):
        write_image(tmp_path / name, to_tensor(RGB))
        np.testing.assert_array_equal(decode_raw((tmp_path / name).read_bytes(), name), RGB)
