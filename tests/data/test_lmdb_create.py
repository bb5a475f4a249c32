"""What goes into an LMDB, and who can read it."""

import os

import cv2
import numpy as np
import pytest
from basicsr.data.data_util import paired_paths_from_lmdb, paths_from_lmdb
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import FileClient, imfrombytes
from lmdb_helpers import contents, noise, records, some_images, values, with_opencv, with_pillow, write_files
from PIL import Image

from nlcl_plugin.data.image_io import decode_raw, list_images, to_uint16
from nlcl_plugin.data.lmdb import create as lmdb_create
from nlcl_plugin.data.lmdb.create import create_lmdb as create
from nlcl_plugin.data.lmdb.encode import Cut, encode_image
from nlcl_plugin.data.lmdb.store import close_environment
from nlcl_plugin.errors import InputError

RGB, GREY = noise((9, 7)), noise((9, 7), channels=1)
RGBA = np.dstack([RGB, GREY])
GREY_16, RGB_16 = noise((9, 7), channels=1, dtype=np.uint16), noise((9, 7), dtype=np.uint16)
PALETTE = Image.fromarray(RGB).quantize(16)
# The file, whether it stays as it is, the value's channels, and its pixel type.
KINDS = {
    "png": (with_pillow(RGB, "PNG"), True, 3, np.uint8),
    "grey png": (with_pillow(GREY, "PNG"), True, 1, np.uint8),
    "RGBA png": (with_pillow(RGBA, "PNG"), True, 4, np.uint8),
    "palette png with alpha": (with_pillow(PALETTE, "PNG", transparency=3), True, 4, np.uint8),
    "16-bit grey png": (with_opencv(GREY_16, ".png"), True, 1, np.uint16),
    "16-bit png": (with_opencv(RGB_16, ".png"), True, 3, np.uint16),
    "turned png": (with_pillow(RGB, "PNG", orientation=6), False, 3, np.uint8),
    "jpg": (with_pillow(RGB, "JPEG"), False, 3, np.uint8),
    "turned jpg": (with_pillow(RGB, "JPEG", orientation=6), False, 3, np.uint8),
    "RGBA webp": (with_pillow(RGBA, "WEBP", lossless=True), False, 3, np.uint8),
    "16-bit tif": (with_opencv(RGB_16, ".tif"), False, 3, np.uint16),
    "float tif": (with_opencv((RGB / 255).astype(np.float32), ".tif"), False, 3, np.uint16),
}


class TestValues:
    @pytest.mark.parametrize("kind", KINDS)
    def test_show_the_picture_of_the_file(self, kind):
        data, copied, channels, dtype = KINDS[kind]
        (value,) = encode_image(data, kind)
        assert (value.data == data) == copied
        expected = to_uint16(decode_raw(data, kind))
        assert value.shape == (*expected.shape[:2], channels)
        assert expected.shape[:2] == ((7, 9) if "turned" in kind else (9, 7))
        shown = decode_raw(value.data, kind)
        assert shown.dtype == dtype
        np.testing.assert_array_equal(shown, expected)
        # A stock reader sees the same, in 8 bits.
        scale = 257 if dtype == np.uint16 else 1
        stock = imfrombytes(value.data)[..., ::-1].astype(int) * scale
        assert np.abs(stock - expected).max() < scale
        stored = cv2.imdecode(np.frombuffer(value.data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert (1 if stored.ndim == 2 else stored.shape[2]) == channels
        # So do sub-images.
        parts = encode_image(data, kind, Cut(4, 3))
        assert [part.box for part in parts] == Cut(4, 3).boxes(*shown.shape[:2])
        for part in parts:
            top, left, height, width = part.box
            np.testing.assert_array_equal(decode_raw(part.data, kind), shown[top : top + height, left : left + width])
            assert part.shape == (4, 4, min(channels, 3))

    @pytest.mark.parametrize("kind", ["png", "RGBA png", "16-bit png"])
    def test_a_png_that_is_not_whole_is_refused(self, kind):
        data = KINDS[kind][0]
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        for broken in (data[:-20], data[: len(data) // 2], data[:30], data[:10], bytes(flipped)):
            with pytest.raises(InputError, match="x: cannot be decoded"):
                encode_image(broken, "x")


class TestCreate:
    def test_folder_has_basicsrs_layout_and_the_origin_of_each_key(self, tmp_path):
        files = {"a/x.png": KINDS["grey png"][0], "a/x.jpg": KINDS["turned jpg"][0], "雨 1.png": KINDS["RGBA png"][0]}
        root, path = write_files(tmp_path / "in", files), tmp_path / "x.lmdb"
        report = create(root, path)
        assert (report.images, report.values, report.skipped) == (3, 3, [])
        assert sorted(os.listdir(path)) == ["build.json", "data.mdb", "keys.jsonl", "meta_info.txt"]
        assert sorted(os.listdir(tmp_path)) == ["in", "x.lmdb"]
        assert (path / "meta_info.txt").read_text().splitlines() == [
            "a/x==jpg.png (7,9,3) 1",
            "a/x==png.png (9,7,1) 1",
            "=E9=9B=A8=201.png (9,7,4) 1",
        ]
        stored = values(path)
        assert stored["a/x==png"] == files["a/x.png"]
        assert [record["source"] for record in records(path)] == list_images(root)
        for record in records(path):
            assert record["bytes"] == len(stored.pop(record["key"]))
            assert record["box"] is None
        assert not stored

    def test_sub_images_are_named_as_by_basicsr(self, tmp_path):
        files = {"a.png": with_opencv(noise((8, 11))), "b.png": with_opencv(noise((4, 5)))}
        root, path = write_files(tmp_path / "in", files), tmp_path / "x.lmdb"
        report = create(root, path, cut=Cut(5, 4))
        assert (report.images, report.values) == (2, 7)
        lines = (path / "meta_info.txt").read_text().splitlines()
        assert lines == [*[f"a_s00{i}.png (5,5,3) 1" for i in range(1, 7)], "b_s001.png (4,5,3) 1"]
        boxes = {record["key"]: record["box"] for record in records(path)}
        assert (boxes["a_s005"], boxes["b_s001"]) == ([3, 4, 5, 5], None)
        assert values(path)["b_s001"] == files["b.png"]

    def test_the_result_depends_on_neither_threads_nor_batches_nor_the_first_map(self, tmp_path, monkeypatch):
        root = write_files(tmp_path / "in", some_images(30))
        create(root, tmp_path / "a.lmdb", cut=Cut(20, 15), jobs=1)
        monkeypatch.setattr(lmdb_create, "BATCH_BYTES", 20_000)
        monkeypatch.setattr(lmdb_create, "FIRST_MAP_BYTES", 1 << 15)
        commits, commit = [], lmdb_create._commit
        monkeypatch.setattr(lmdb_create, "_commit", lambda *given: (commits.append(given[-1].bytes), commit(*given)))
        report = create(root, tmp_path / "b.lmdb", cut=Cut(20, 15), jobs=3)
        assert contents(tmp_path / "a.lmdb") == contents(tmp_path / "b.lmdb")
        assert [one.source for one in report.skipped] == ["b/broken.png"]
        assert len(commits) > 5
        assert max(commits) < 40_000  # what is in memory
        assert sum(commits) == report.bytes > 1 << 18

    def test_links_are_followed_and_the_input_may_be_around_the_output(self, tmp_path):
        write_files(tmp_path / "elsewhere", {"sub/a.png": KINDS["png"][0]})
        (tmp_path / "in").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "b.png").symlink_to(tmp_path / "elsewhere" / "sub" / "a.png")
        (tmp_path / "in" / "link.lmdb").symlink_to(tmp_path / "y.lmdb")
        create(tmp_path / "in", tmp_path / "in" / "link.lmdb")
        assert set(values(tmp_path / "y.lmdb")) == {"b", "sub/a"}

    def test_unreadable_files_are_skipped_or_with_strict_fatal(self, tmp_path):
        root = write_files(tmp_path / "in", {"a.png": b"", "b.png": KINDS["png"][0], "c.png": KINDS["png"][0][:-20]})
        (root / "gone.png").symlink_to("nothing.png")
        report = create(root, tmp_path / "x.lmdb")
        assert [(one.source, one.reason.split(";")[0]) for one in report.skipped] == [
            ("a.png", "empty, expected an image"),
            ("c.png", "cannot be decoded as an image"),
            ("gone.png", "cannot be read (No such file or directory)"),
        ]
        again = create(root, tmp_path / "x.lmdb")
        assert (again.already_made, again.skipped) == (True, report.skipped)
        with pytest.raises(InputError, match=r"a\.png: empty"):
            create(root, tmp_path / "y.lmdb", strict=True)
        assert not (tmp_path / "y.lmdb").exists()
        (root / "b.png").unlink()
        with pytest.raises(InputError, match=r"none of its 3 images can be read; the first, a\.png, empty"):
            create(root, tmp_path / "z.lmdb")
        assert not list(tmp_path.glob("z*"))

    @pytest.mark.parametrize("change", ["write", "remove"])
    def test_a_file_that_changes_meanwhile_is_named(self, tmp_path, monkeypatch, change):
        root = write_files(tmp_path / "in", {f"{i}.png": KINDS["png"][0] for i in range(9)})
        read = lmdb_create.read_bytes

        def read_and_change(path):
            data = read(path)
            if path.endswith("5.png"):
                (root / "5.png").unlink() if change == "remove" else (root / "5.png").write_bytes(data + b"x")
            return data

        monkeypatch.setattr(lmdb_create, "read_bytes", read_and_change)
        with pytest.raises(InputError, match=r"5\.png: changed while the LMDB was being made"):
            create(root, tmp_path / "x.lmdb")
        assert not (tmp_path / "x.lmdb").exists()

    def test_bad_outputs_are_refused_and_not_touched(self, tmp_path):
        root = write_files(tmp_path / "in", {"a.png": KINDS["png"][0]})
        write_files(tmp_path, {"file.lmdb": b"", "own.lmdb/a.png": KINDS["png"][0]})
        for source, output, words, overwrite in [
            (root, "x", r"x: expected a name that ends in \.lmdb", False),
            (root, "file.lmdb", r"file\.lmdb: is a file, expected a folder", False),
            (root, "file.lmdb/x.lmdb", "cannot be written", False),
            (root, "own.lmdb", "exists, and is not made of these images", False),
            (root, "own.lmdb", r"contains a\.png, so it is not an LMDB to replace", True),
            (tmp_path / "own.lmdb", "own.lmdb", "are in it", True),
        ]:
            with pytest.raises(InputError, match=words):
                create(source, tmp_path / output, overwrite=overwrite)
        assert sorted(os.listdir(tmp_path)) == ["file.lmdb", "in", "own.lmdb"]
        assert os.listdir(tmp_path / "own.lmdb") == ["a.png"]


class TestReaders:
    def test_stock_functions_and_stock_dataset_for_training_and_validation_at_once(self, tmp_path):
        roots = {}
        for side, seed in (("lq", 0), ("gt", 10)):
            files = {f"s/{i}.png": with_opencv(noise((24, 30), seed + i)) for i in range(4)}
            roots[side] = str(tmp_path / f"{side}.lmdb")
            create(write_files(tmp_path / side, files), roots[side], cut=Cut(16, 14))
        keys = [f"s/{i}_s00{j}" for i in range(4) for j in (1, 2, 3, 4)]
        assert paths_from_lmdb(roots["lq"]) == keys
        pairs = paired_paths_from_lmdb([roots["lq"], roots["gt"]], ["lq", "gt"])
        assert pairs == [{"lq_path": key, "gt_path": key} for key in keys]
        shown = imfrombytes(FileClient("lmdb", db_paths=roots["lq"]).get("s/2_s004"))
        np.testing.assert_array_equal(shown, cv2.imread(str(tmp_path / "lq" / "s" / "2.png"))[8:24, 14:30])
        opt = {"dataroot_gt": roots["gt"], "dataroot_lq": roots["lq"], "scale": 1, "gt_size": 8, "use_hflip": True}
        for phase, side in (("train", 8), ("val", 16)):
            dataset = PairedImageDataset({**opt, "use_rot": True, "phase": phase, "io_backend": {"type": "lmdb"}})
            assert len(dataset) == 16
            assert dataset[5]["lq"].shape == (3, side, side)
        whole = decode_raw((tmp_path / "gt/s/0.png").read_bytes(), "")
        np.testing.assert_array_equal(dataset[0]["gt"].numpy() * 255, whole[:16, :16].transpose(2, 0, 1))
        for path in roots.values():
            close_environment(path)
