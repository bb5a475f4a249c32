"""What is read is compared with Pillow, OpenCV and tifffile; what is written is read by them; the rest is refused."""

import io
import os
import struct

import cv2
import numpy as np
import pytest
import tifffile
from conftest import photograph
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from nlcl_plugin.data.image_io import read_image, to_float
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import read_photograph, write_photograph
from nlcl_plugin.media.photograph.exif import orientation_of, set_upright, turned
from nlcl_plugin.media.photograph.png import metadata_chunks, with_chunks

RGB = photograph(36, 52)
NEW = photograph(36, 52, seed=1)  # what a network might make of it
SMOOTH = cv2.GaussianBlur(RGB, (0, 0), 2)  # coarse chroma loses little of it
ALPHA = np.random.default_rng(0).integers(0, 256, (36, 52), dtype=np.uint8)
DEEP = np.random.default_rng(1).integers(0, 65536, (36, 52, 4), dtype=np.uint16)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation=1):
    block = Image.Exif()
    block[0x0112] = orientation
    block[0x010F] = "Maker"
    block[0x8769] = {0x829A: TiffImagePlugin.IFDRational(1, 250), 0x927C: b"notes of the maker"}
    return block.tobytes()


def packet(orientation, *, element=False, more=""):
    """An XMP packet, with its values in attributes or in elements."""
    values = {"Orientation": orientation, "ImageWidth": 52, "ImageLength": 36}
    spaces = "xmlns:tiff='http://ns.adobe.com/tiff/1.0/' xmlns:dc='http://purl.org/dc/elements/1.1/'"
    inside = "".join(f"<tiff:{key}>{value}</tiff:{key}>" for key, value in values.items()) if element else ""
    attributes = "" if element else "".join(f" tiff:{key}='{value}'" for key, value in values.items())
    return (
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
        f"<rdf:Description {spaces}{attributes}>{inside}<dc:title>雨</dc:title>{more}</rdf:Description>"
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def xmp_options(kind, packet, orientation=1):
    """What Pillow takes to write an XMP packet and EXIF."""
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet.decode())
        return {"pnginfo": info, "exif": exif(orientation)}
    if kind == "TIFF":
        return {"tiffinfo": {700: packet, 0x0112: orientation}}
    return {"xmp": packet, "exif": exif(orientation)}


def save(path, array, kind, **options):
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(path, kind, **options)
    return path


def there_and_back(path, new=None):
    """Read a file, write it with other pixels, and give what was read, the new file's path, and what is read of it."""
    before = read_photograph(path)
    target = path.with_name("out_" + path.name)
    write_photograph(target, before.rgb if new is None else new, before)
    return before, target, read_photograph(target)


class TestLosslessKinds:
    @pytest.mark.parametrize(
        ("kind", "options"),
        [("PNG", {}), ("BMP", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
    )
    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
    def test_pixels_alpha_and_grey_are_kept_exactly(self, tmp_path, kind, options, mode):
        if (mode == "LA" and kind in ("BMP", "WEBP")) or (mode == "L" and kind == "WEBP"):
            pytest.skip("the format has no such images")
        colours = {"L": [NEW[..., 1]], "LA": [NEW[..., 1], ALPHA], "RGB": [NEW], "RGBA": [NEW, ALPHA]}[mode]
        stored = np.dstack(colours).squeeze()
        path = tmp_path / "a.bin"
        if (kind, mode) == ("BMP", "RGBA"):
            path.write_bytes(cv2.imencode(".bmp", stored[..., [2, 1, 0, 3]])[1].tobytes())
        else:
            save(path, stored, kind, **options)
        before, target, after = there_and_back(path)
        assert before.grey == mode.startswith("L")
        assert before.kind.upper() == kind
        assert (before.alpha is not None) == mode.endswith("A")
        expected = np.asarray(Image.open(path).convert("RGBA"))
        for one in (before, after):
            np.testing.assert_array_equal(one.rgb, expected[..., :3])
            if one.alpha is not None:
                np.testing.assert_array_equal(one.alpha, ALPHA)
        with Image.open(target) as image:
            assert (image.format, image.mode) == (kind, mode)
            np.testing.assert_array_equal(np.asarray(image.convert("RGBA")), expected)

    @pytest.mark.parametrize(
        ("ending", "channels"),
        [(".png", 1), (".png", 3), (".png", 4), (".tif", 3), (".tif", 4), (".ppm", 3), (".pgm", 1)],
    )
    def test_16_bit_is_kept_exactly(self, tmp_path, ending, channels):
        stored = DEEP[..., [2, 1, 0, 3][:channels]] if channels > 1 else DEEP[..., :1]
        path = tmp_path / ("a" + ending)
        path.write_bytes(cv2.imencode(ending, stored)[1].tobytes())
        before, target, after = there_and_back(path)
        assert before.rgb.dtype == after.rgb.dtype == np.uint16
        assert before.grey == (channels == 1)
        rgb = DEEP[..., :3] if channels > 1 else DEEP[..., :1].repeat(3, axis=2)
        np.testing.assert_array_equal(before.rgb, rgb)
        np.testing.assert_array_equal(cv2.imread(str(target), cv2.IMREAD_UNCHANGED), stored.squeeze())
        if channels == 4:
            np.testing.assert_array_equal(after.alpha, DEEP[..., 3])

    @pytest.mark.parametrize(("dtype", "channels"), [(np.float32, 1), (np.float64, 3), (np.float32, 4)])
    def test_float_tiff_stays_float(self, tmp_path, dtype, channels):
        stored = np.random.default_rng(2).random((9, 7, channels)).astype(dtype)
        extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
        photometric = "rgb" if channels > 1 else "minisblack"
        tifffile.imwrite(tmp_path / "a.tif", stored.squeeze(), photometric=photometric, metadata=None, **extra)
        before, target, _ = there_and_back(tmp_path / "a.tif")
        assert before.rgb.dtype == np.float32
        np.testing.assert_array_equal(tifffile.imread(target), stored.squeeze().astype(np.float32))

    def test_floats_are_rounded_to_the_depth_and_grey_takes_the_mean(self, tmp_path):
        path = tmp_path / "a.png"
        path.write_bytes(cv2.imencode(".png", DEEP[..., :3])[1].tobytes())
        before = read_photograph(path)
        write_photograph(path, to_float(before.rgb), before)
        np.testing.assert_array_equal(read_photograph(path).rgb, before.rgb)
        like = read_photograph(save(path, RGB, "PNG"))
        write_photograph(path, np.float32([-1, 0.4999 / 255, 254.6 / 255])[None, None] * np.ones((36, 52, 1)), like)
        assert read_photograph(path).rgb[0, 0].tolist() == [0, 0, 255]
        _, target, after = there_and_back(save(path, RGB[..., 0], "PNG"), NEW)
        np.testing.assert_array_equal(after.rgb[..., 0], np.rint(NEW.mean(axis=2)))
        assert Image.open(target).mode == "L"


class TestLossyKinds:
    @pytest.mark.parametrize(("quality", "subsampling"), [(30, 2), (75, 0), (95, 1), (100, 0), (100, 2)])
    def test_jpeg_keeps_its_subsampling_and_loses_little(self, tmp_path, quality, subsampling):
        path = save(tmp_path / "a.jpg", SMOOTH, "JPEG", quality=quality, subsampling=subsampling)
        before, target, after = there_and_back(path)
        np.testing.assert_array_equal(before.rgb, np.asarray(Image.open(path)))
        reference = io.BytesIO()
        Image.fromarray(before.rgb).save(reference, "JPEG", quality=95, subsampling=subsampling)
        floor = cv2.PSNR(before.rgb, np.asarray(Image.open(reference)))
        assert cv2.PSNR(before.rgb, after.rgb) > max(38, floor - 0.3)  # never coarser than quality 95
        with Image.open(target) as image:
            assert image.layer[0][1:3] == {0: (1, 1), 1: (2, 1), 2: (2, 2)}[subsampling]
            assert sum(image.quantization[0]) <= sum(Image.open(path).quantization[0])

    def test_lossy_webp_is_of_high_quality_and_keeps_alpha_exactly(self, tmp_path):
        path = save(tmp_path / "a.webp", np.dstack([SMOOTH, ALPHA]), "WEBP", quality=60)
        before, target, after = there_and_back(path)
        np.testing.assert_array_equal(after.alpha, ALPHA)
        assert cv2.PSNR(before.rgb, after.rgb) > 35
        assert b"VP8L" not in target.read_bytes()[:64]

    def test_pixels_are_those_that_training_and_test_read(self, shared_data, tmp_path):
        for path in sorted((shared_data / "realrain_eg" / "rainy").iterdir()):
            photo = read_photograph(path)
            np.testing.assert_array_equal(to_float(photo.rgb), read_image(path))
            write_photograph(tmp_path / "a", photo.rgb, photo)
            assert cv2.PSNR(photo.rgb, np.asarray(Image.open(tmp_path / "a"))) > 45
            assert (tmp_path / "a").stat().st_size < 1.1 * path.stat().st_size


class TestWhatBelongsToIt:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 7])
    def test_orientation_is_applied_once(self, tmp_path, kind, orientation):
        options = {"lossless": True} if kind == "WEBP" else {}
        path = save(tmp_path / "a", SMOOTH, kind, exif=exif(orientation), **options)
        before, target, _ = there_and_back(path)
        upright = np.asarray(ImageOps.exif_transpose(Image.open(path)))
        np.testing.assert_array_equal(before.rgb, upright)
        with Image.open(target) as image:
            found = image.getexif()
            assert found.get(0x0112, 1) == 1
            inner = found.get_ifd(0x8769)
            assert found[0x010F] == "Maker"
            assert inner[0x829A] == 1 / 250
            if kind != "TIFF":  # there Pillow writes it anew
                assert inner[0x927C] == b"notes of the maker"
            seen = ImageOps.exif_transpose(image)
            assert seen.size == upright.shape[1::-1]
            assert cv2.PSNR(np.asarray(seen), upright) > 38

    @pytest.mark.parametrize("ending", [".png", ".tif"])
    @pytest.mark.parametrize("orientation", [1, 3, 7])
    def test_16_bit_images_keep_orientation_profile_and_xmp(self, tmp_path, ending, orientation):
        path = tmp_path / ("a" + ending)
        if ending == ".png":
            block = exif(orientation).removeprefix(b"Exif\0\0")
            data = cv2.imencode(".png", DEEP[..., 2::-1])[1].tobytes()
            path.write_bytes(with_chunks(data, metadata_chunks(SRGB, block, packet(orientation))))
        else:
            extra = [(274, "H", 1, orientation), (700, "B", None, packet(orientation))]
            tifffile.imwrite(path, DEEP[..., :3], photometric="rgb", iccprofile=SRGB, extratags=extra)
        before, target, after = there_and_back(path)
        np.testing.assert_array_equal(before.rgb, turned(DEEP[..., :3], orientation))
        np.testing.assert_array_equal(after.rgb, before.rgb)
        assert after.icc == SRGB
        assert b"tiff:Orientation='1'" in after.xmp
        seen = cv2.imread(str(target), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)[..., ::-1]
        np.testing.assert_array_equal(seen, before.rgb)
        assert Image.open(target).info["icc_profile"] == SRGB if ending == ".png" else True  # which checks checksums

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_exif_is_changed_in_place(self, order):
        entries = [(0x0112, 3, 1, struct.pack(order + "HH", 8, 0)), (0x8769, 4, 1, struct.pack(order + "I", 60))]
        inner = [(0xA002, 4, 1, struct.pack(order + "I", 4000)), (0xA003, 3, 1, struct.pack(order + "HH", 3000, 0))]
        block = struct.pack(order + "2sHI", b"II" if order == "<" else b"MM", 42, 8)
        for at, directory in ((8, entries), (60, inner)):
            block = block.ljust(at, b"?") + struct.pack(order + "H", 2)
            block += b"".join(struct.pack(order + "HHI", *entry[:3]) + entry[3] for entry in directory)
            block += struct.pack(order + "I", 77)  # where a thumbnail would be
        block += b"maker's notes"
        assert orientation_of(block) == 8
        changed = Image.Exif()
        changed.load(set_upright(block))
        assert changed[0x0112] == 1
        assert dict(changed.get_ifd(0x8769)) == {0xA002: 4000, 0xA003: 3000}
        assert not changed.get_ifd(1)
        assert set_upright(block).endswith(b"maker's notes")
        assert len(set_upright(block)) == len(block)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
    def test_colour_profile_and_resolution_are_kept(self, tmp_path, kind):
        _, target, _ = there_and_back(save(tmp_path / "a", RGB, kind, dpi=(300, 150), icc_profile=SRGB))
        found = Image.open(target).info
        assert found.get("icc_profile") == (None if kind == "BMP" else SRGB)
        if kind in ("PNG", "TIFF"):
            assert found["dpi"] == pytest.approx((300, 150), abs=0.1)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("element", [False, True])
    def test_xmp_is_kept_and_says_that_the_photograph_is_upright(self, tmp_path, kind, element):
        path = save(tmp_path / "a", SMOOTH, kind, **xmp_options(kind, packet(6, element=element), 6))
        before, target, after = there_and_back(path)
        assert before.notes == ()
        with Image.open(target) as image:
            found = image.info["xmp"]
        assert found == after.xmp
        assert found == packet(1, element=element)

    def test_pixels_are_turned_by_exif_and_never_by_xmp(self, tmp_path):
        path = save(tmp_path / "a.tif", RGB, "TIFF", tiffinfo={700: packet(6, element=True)})
        before, target, after = there_and_back(path)
        np.testing.assert_array_equal(before.rgb, RGB)
        np.testing.assert_array_equal(np.asarray(Image.open(target)), RGB)
        assert after.xmp == packet(1, element=True)

    @pytest.mark.parametrize(
        "said",
        [
            packet(1, more="<xmp:Thumbnails/>"),
            packet(1, more="<a:Orientation>6</a:Orientation>"),
            packet("sideways"),
            packet(1).decode().encode("utf-16"),
        ],
    )
    def test_xmp_that_would_not_hold_is_dropped_and_said(self, tmp_path, said):
        before, target, after = there_and_back(save(tmp_path / "a.jpg", RGB, "JPEG", **xmp_options("JPEG", said)))
        assert before.notes == ("its XMP, which is broken or speaks of other parts of the file, is dropped",)
        assert after.xmp is None
        assert b"xap" not in target.read_bytes()


class TestUnusualKinds:
    def test_palette_becomes_rgb(self, tmp_path):
        palette = Image.fromarray(RGB).quantize(16)
        before, target, _ = there_and_back(save(tmp_path / "a.png", palette, "PNG"))
        np.testing.assert_array_equal(before.rgb, np.asarray(palette.convert("RGB")))
        assert "its palette becomes RGB" in before.notes
        assert Image.open(target).mode == "RGB"
        before, target, after = there_and_back(save(tmp_path / "b.png", palette, "PNG", transparency=3))
        np.testing.assert_array_equal(before.alpha, np.where(np.asarray(palette) == 3, 0, 255))
        np.testing.assert_array_equal(after.alpha, before.alpha)

    def test_the_content_decides_not_the_name_and_texts_and_gamma_of_png_are_kept(self, tmp_path):
        info = PngImagePlugin.PngInfo()
        info.add_text("Author", "ü")
        info.add(b"gAMA", struct.pack(">I", 100000))
        before, target, _ = there_and_back(save(tmp_path / "雨 \n\udcff.jpg", RGB, "PNG", pnginfo=info))
        assert before.kind == "PNG"
        with open(target, "rb") as file:
            image = Image.open(file)
            np.testing.assert_array_equal(np.asarray(image), RGB)
            assert (image.info["gamma"], image.text) == (1.0, {"Author": "ü"})

    def test_thumbnail_pages_do_not_count(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(RGB, photometric="rgb")
            file.write(RGB[::4, ::4], photometric="rgb", subfiletype=1)
        np.testing.assert_array_equal(read_photograph(path).rgb, RGB)


# refused -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_bombs_are_refused_before_they_are_unpacked(tmp_path, kind):
    path = save(tmp_path / "a", Image.new("1", (16000, 16000)), kind)  # more than Pillow's own limit too
    with pytest.raises(InputError, match=r"a: is 16000 × 16000 pixels, the limit is 200000000"):
        read_photograph(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", ".png", ".tif", ".ppm"])
def test_cut_files_are_refused(tmp_path, kind):
    deep = kind.startswith(".")
    whole = cv2.imencode(kind, DEEP[..., :3])[1].tobytes() if deep else save(tmp_path / "a", RGB, kind).read_bytes()
    for part in (0.02, 0.5, 0.95):
        (tmp_path / "a").write_bytes(whole[: int(part * len(whole))])
        with pytest.raises(InputError, match=r"a: (cannot be decoded|is no PNG)"):
            read_photograph(tmp_path / "a")


@pytest.mark.parametrize(
    ("array", "options"),
    [
        (DEEP[..., :3].astype(np.int16), {}),
        (np.moveaxis(DEEP[..., :3], -1, 0), {"planarconfig": "separate"}),
        (np.zeros((4, 4, 4), np.uint8), {"photometric": "separated"}),
        (RGB, {"bigtiff": True}),
        (np.stack([RGB, RGB]), {}),
        (np.full((1, 1, 3), 255, np.float32), {}),
        (np.full((1, 1, 3), np.nan, np.float32), {}),
    ],
    ids=["signed", "planar", "CMYK", "BigTIFF", "pages", "range", "nan"],
)
def test_tiffs_that_libraries_do_not_read_are_refused(tmp_path, array, options):
    tifffile.imwrite(tmp_path / "a.tif", array, **{"photometric": "rgb", **options})
    with pytest.raises(InputError, match=r"a\.tif: .*(expected grey|is no PNG|it has 2 pages|expected .0, 1.|finite)"):
        read_photograph(tmp_path / "a.tif")


def test_other_files_are_named(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a", "WEBP", save_all=True, append_images=[Image.fromarray(NEW)])
    with pytest.raises(InputError, match="expected one picture but it has 2 frames; convert it to a video"):
        read_photograph(tmp_path / "a")
    for data, message in ((b"", "a: empty"), (b"hello", "is no PNG, JPEG"), (b"GIF89a" + bytes(50), "is no PNG, JPEG")):
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_photograph(tmp_path / "a")
    for name, message in (("missing", "No such file"), ("", "Is a directory")):
        with pytest.raises(InputError, match=message):
            read_photograph(tmp_path / name)


def test_what_does_not_fit_is_not_written(tmp_path):
    like = read_photograph(save(tmp_path / "a.png", RGB, "PNG"))
    for wrong, what in ((RGB[:5], "shape"), (RGB.astype(np.uint16), "expected an image of uint8 or of floats")):
        with pytest.raises(ValueError, match=what):
            write_photograph(tmp_path / "b.png", wrong, like)
    with pytest.raises(ValueError, match="not finite"):
        write_photograph(tmp_path / "b.png", np.full(RGB.shape, np.nan, np.float32), like)
    with pytest.raises(
        InputError, match=r"b\.png: cannot be written \((Not a directory|.*a\.png is a file, not a folder)\)"
    ):
        write_photograph(tmp_path / "a.png" / "b.png", RGB, like)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_jpeg_keeps_the_longest_exif_that_its_one_segment_can_have(tmp_path):
    with_long_note = exif()
    padding = 65_533 - len(with_long_note)  # what a segment's two bytes of length leave
    Image.fromarray(RGB).save(tmp_path / "long.jpg", exif=with_long_note + bytes(padding))
    write_photograph(tmp_path / "new.jpg", NEW, read_photograph(tmp_path / "long.jpg"))
    assert Image.open(tmp_path / "new.jpg").info["exif"] == Image.open(tmp_path / "long.jpg").info["exif"]
