import io
import os
import stat

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from nlcl_plugin.data.image_io import (
    IMAGE_SUFFIXES,
    decode_image,
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


def with_exif_orientation(jpeg, orientation):
    """Put an APP1 segment with nothing but an orientation behind the JPEG's start marker."""
    tiff = b"II*\x00\x08\x00\x00\x00" + b"\x01\x00" + b"\x12\x01\x03\x00\x01\x00\x00\x00"
    tiff += orientation.to_bytes(4, "little") + b"\x00\x00\x00\x00"
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


class TestListImages:
    def test_lists_every_kind_in_any_case_sorted_and_below_sub_folders(self, tmp_path):
        endings = [e for suffix in IMAGE_SUFFIXES for e in (suffix, suffix.upper())]
        names = [f"{i:02d}{ending}" for i, ending in enumerate(endings)] + ["b/00.png", "a/00.png", "a/c/00.PnG"]
        touch(tmp_path, *names, "notes.txt", "png", "a/readme.md", "x.png.txt")
        assert list_images(tmp_path) == sorted(names)

    def test_accepts_text_unicode_and_spaces(self, tmp_path):
        touch(tmp_path / "雨", "ü mit Leerzeichen.png", "дождь/滴.jpg")
        assert list_images(str(tmp_path / "雨")) == ["ü mit Leerzeichen.png", "дождь/滴.jpg"]

    def test_skips_hidden_files_and_folders(self, tmp_path):
        touch(tmp_path, "a.png", ".b.png", ".ipynb_checkpoints/a.png", "c/._a.png", ".png")
        assert list_images(tmp_path) == ["a.png"]

    def test_follows_links_without_looping(self, tmp_path):
        touch(tmp_path, "elsewhere/one.png", "root/sub/two.png")
        root = tmp_path / "root"
        (root / "file.png").symlink_to(tmp_path / "elsewhere" / "one.png")
        (root / "folder").symlink_to(tmp_path / "elsewhere")
        (root / "sub" / "up").symlink_to(root)
        (tmp_path / "elsewhere" / "back").symlink_to(root)
        assert list_images(root) == ["file.png", "folder/one.png", "sub/two.png"]
        (tmp_path / "link").symlink_to(root)
        assert list_images(tmp_path / "link") == list_images(root)

    def test_links_to_nothing_are_listed_so_that_they_are_missed(self, tmp_path):
        touch(tmp_path, "one.png")
        (tmp_path / "gone.png").symlink_to(tmp_path / "nothing.png")
        (tmp_path / "itself.png").symlink_to("itself.png")
        (tmp_path / "loop").symlink_to("loop")
        assert list_images(tmp_path) == ["gone.png", "itself.png", "one.png"]
        assert list_files(tmp_path) == ["gone.png", "itself.png", "loop", "one.png"]

    def test_pipes_are_not_listed_as_they_could_be_read_for_ever(self, tmp_path):
        touch(tmp_path, "one.png")
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "link.png").symlink_to("pipe.png")
        assert list_images(tmp_path) == ["one.png"]

    def test_a_folder_named_like_an_image_is_a_folder(self, tmp_path):
        touch(tmp_path, "x.png/y.png")
        assert list_images(tmp_path) == ["x.png/y.png"]

    def test_says_what_is_wrong_with_the_folder(self, tmp_path):
        touch(tmp_path, "a.png", "empty/notes.txt")
        with pytest.raises(InputError, match=r"missing: no such folder"):
            list_images(tmp_path / "missing")
        with pytest.raises(InputError, match=r"a\.png: this is a file, expected a folder"):
            list_images(tmp_path / "a.png")
        with pytest.raises(InputError, match=r"empty: no image in .* png, jpg, jpeg, bmp, tif, tiff, webp, ppm"):
            list_images(tmp_path / "empty")


class TestDecode:
    def test_colour_comes_as_rgb_floats(self):
        image = decode_image(encode(RGB), "x.png")
        assert image.dtype == np.float32
        assert image.flags["C_CONTIGUOUS"]
        np.testing.assert_array_equal(image, RGB.astype(np.float32) / 255)

    def test_grey_becomes_rgb(self):
        image = decode_image(encode(RGB[..., 0]), "x.png")
        np.testing.assert_array_equal(image, np.repeat(RGB[..., :1], 3, axis=2).astype(np.float32) / 255)

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
    def test_16_bit_kinds_are_as_opencv_has_them_in_colour(self, ending, counts):
        deep = np.random.default_rng(1).integers(0, 65536, (5, 7, 4), dtype=np.uint16)
        for count in counts:
            self.assert_as_opencv(encode(deep[..., 0] if count == 1 else deep[..., :count], ending), np.uint16)

    @staticmethod
    def assert_as_opencv(data, dtype):
        image = decode_raw(data, "x")
        assert image.dtype == dtype
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
        np.testing.assert_array_equal(image, expected[..., ::-1])

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
    def test_alpha_is_dropped_not_blended(self, dtype):
        rgba = np.dstack([RGB, np.zeros((5, 7), np.uint8)]).astype(dtype)
        np.testing.assert_array_equal(decode_raw(encode(rgba), "x.png"), rgba[..., :3])

    def test_16_bit_keeps_its_steps(self):
        deep = np.random.default_rng(1).integers(0, 65536, (5, 7, 3), dtype=np.uint16)
        for ending in (".png", ".tif", ".ppm"):
            image = decode_image(encode(deep, ending), "x")
            np.testing.assert_array_equal(image, deep.astype(np.float32) / 65535)
        np.testing.assert_array_equal(decode_raw(encode(deep[..., 0]), "x"), np.repeat(deep[..., :1], 3, axis=2))

    @pytest.mark.parametrize(
        ("orientation", "upright"),
        [
            (1, lambda a: a),
            (2, lambda a: a[:, ::-1]),
            (3, lambda a: a[::-1, ::-1]),
            (4, lambda a: a[::-1]),
            (5, lambda a: a.transpose(1, 0, 2)),
            (6, lambda a: np.rot90(a, -1)),
            (7, lambda a: np.rot90(a, 2).transpose(1, 0, 2)),
            (8, lambda a: np.rot90(a)),
        ],
    )
    def test_exif_orientation_is_applied(self, orientation, upright):
        # 16 × 16 blocks of grey survive JPEG exactly, or nearly.
        blocks = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
        stored = np.repeat(blocks[..., None], 3, axis=2)
        image = decode_raw(with_exif_orientation(encode(stored, ".jpg"), orientation), "x.jpg")
        expected = upright(stored)
        assert image.shape == expected.shape
        assert np.abs(image.astype(int) - expected).max() <= 2

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_float_tiff_is_taken_as_it_is(self, dtype):
        values = np.random.default_rng(2).random((5, 7, 3)).astype(dtype)
        values[0, 0, 0] = 1 + 1e-6  # rounding, which is clipped
        image = decode_image(encode(values, ".tif"), "x.tif")
        np.testing.assert_array_equal(image, np.clip(values, 0, 1).astype(np.float32))

    def test_float_tiff_in_other_units_is_refused(self):
        with pytest.raises(InputError, match=r"far\.tif: has float values from 0 to 255; expected \[0, 1\]"):
            decode_raw(encode(np.float32([[[0, 0, 255]]]), ".tif"), "far.tif")
        for value in (np.nan, np.inf):
            with pytest.raises(InputError, match=r"nan\.tif: has values that are not finite"):
                decode_raw(encode(np.float32([[[0, 0, value]]]), ".tif"), "nan.tif")

    def test_other_pixel_types_are_refused(self):
        with pytest.raises(InputError, match=r"signed\.tif: has int16 pixels; expected 8-bit, 16-bit or float"):
            decode_raw(encode(RGB.astype(np.int16), ".tif"), "signed.tif")

    def test_broken_data_is_refused_by_name_without_warnings_of_opencv(self, capfd):
        noise = np.random.default_rng(3).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        with pytest.raises(InputError, match=r"void\.png: empty"):
            decode_image(b"", "void.png")
        for data in (b"hello", encode(RGB)[:30], encode(RGB, ".tif")[:20]):
            with pytest.raises(InputError, match=r"odd\.png: cannot be decoded"):
                decode_image(data, "odd.png")
        cut = encode(noise)
        with pytest.raises(InputError, match=r"cut\.png: cannot be decoded"):
            decode_image(cut[: len(cut) // 2], "cut.png")
        printed = capfd.readouterr().err  # libpng may speak, but not OpenCV
        assert "WARN" not in printed
        assert "ERROR" not in printed

    def test_read_image_names_the_file(self, tmp_path):
        (tmp_path / "雨.PNG").write_bytes(encode(RGB))
        np.testing.assert_array_equal(read_image(tmp_path / "雨.PNG"), RGB.astype(np.float32) / 255)
        with pytest.raises(InputError, match=r"missing\.png: cannot be read \(No such file"):
            read_image(str(tmp_path / "missing.png"))


class TestTensors:
    def test_there_and_back_changes_nothing(self):
        every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
        tensor = to_tensor(every)
        assert tensor.dtype == torch.float32
        assert tensor.shape == (3, 16, 16)
        np.testing.assert_array_equal(to_uint8(tensor), every)
        np.testing.assert_array_equal(to_uint8(tensor.numpy().transpose(1, 2, 0)), every)
        np.testing.assert_array_equal(to_uint8(every), every)
        np.testing.assert_array_equal(to_uint8(torch.from_numpy(every).permute(2, 0, 1)), every)

    def test_tensor_has_its_own_memory(self):
        image = np.zeros((2, 2, 3), np.float32)
        to_tensor(image).fill_(1)
        assert not image.any()
        assert to_tensor(image[::-1, ::-1].transpose(1, 0, 2)).is_contiguous()

    def test_rounds_and_clips(self):
        values = torch.tensor([-1.0, 0.4999 / 255, 0.5001 / 255, 254.6 / 255, 2.0]).repeat(3, 1)[:, None]
        assert to_uint8(values)[0, :, 0].tolist() == [0, 0, 1, 255, 255]
        assert to_uint8(values.bfloat16().requires_grad_())[0, :, 0].tolist()[-1] == 255

    def test_refuses_what_is_no_image(self):
        with pytest.raises(ValueError, match=r"got the shape \(1, 3, 4, 4\)"):
            to_uint8(torch.zeros(1, 3, 4, 4))
        with pytest.raises(ValueError, match=r"got the shape \(4, 4\)"):
            to_uint8(np.zeros((4, 4)))
        with pytest.raises(ValueError, match="not finite"):
            to_uint8(torch.full((3, 2, 2), torch.nan))


class TestWriteImage:
    @pytest.mark.parametrize("name", ["a.png", "雨/ü.PNG", "b.bmp", "c.tif", "d.ppm"])
    def test_lossless_kinds_come_back_equal(self, tmp_path, name):
        write_image(tmp_path / name, to_tensor(RGB))
        np.testing.assert_array_equal(decode_raw((tmp_path / name).read_bytes(), name), RGB)

    def test_replaces_the_file_and_leaves_nothing_else(self, tmp_path):
        path = tmp_path / "a.png"
        write_image(path, RGB)
        write_image(path, RGB[::-1].astype(np.float32) / 255)
        np.testing.assert_array_equal(decode_raw(path.read_bytes(), "a"), RGB[::-1])
        assert os.listdir(tmp_path) == ["a.png"]
        (tmp_path / "plain").write_bytes(b"")
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)

    def test_a_failed_write_keeps_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.png"
        write_image(path, RGB)
        before = path.read_bytes()

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_image(path, RGB[::-1])
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["a.png"]

    def test_refuses_unknown_kinds(self, tmp_path):
        with pytest.raises(InputError, match=r"a\.gif: cannot write an image of this kind; end the name in \.png"):
            write_image(tmp_path / "a.gif", RGB)
