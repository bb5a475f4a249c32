import os
import shutil

import lmdb
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from lmdb_helpers import noise, records, some_images, turned, values, with_opencv, with_pillow, write_files

from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.data.lmdb.encode import Cut
from nlcl_plugin.data.lmdb.store import close_environment
from nlcl_plugin.data.lmdb.verify import verify_lmdb
from nlcl_plugin.errors import InputError


@pytest.fixture
def root(tmp_path):
    files = some_images(9) | {
        "c/turned.jpg": with_pillow(noise((30, 40)), "JPEG", exif=turned(6)),
        "c/float.tif": with_opencv((noise((30, 40)) / 255).astype(np.float32), ".tif"),
        "c/grey.png": with_opencv(noise((30, 40), channels=1), ".png"),
        "c/alpha.png": with_opencv(noise((30, 40), channels=4), ".png"),
        "c/雨 1.png": with_opencv(noise((30, 40)), ".png"),
        "c/雨 1.jpg": with_opencv(noise((30, 40)), ".jpg"),
    }
    return write_files(tmp_path / "in", files)


@pytest.fixture
def path(root, tmp_path):
    path = tmp_path / "x.lmdb"
    create_lmdb(root, path, cut=Cut(25, 20), progress=False)
    yield path
    close_environment(path)


@pytest.mark.parametrize("content", [b"\x8e\n", b'{"other": 1}\n', b"1\n"])
def test_a_damaged_list_of_what_was_skipped_is_one_line(path, root, content):
    (path / "skipped.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"skipped\.jsonl: is damaged"):
        verify(path, against=root)


def verify(path, against=None):
    close_environment(path)
    return verify_lmdb(path, against=against, jobs=2, progress=False)


def change(path, key, value):
    close_environment(path)
    with lmdb.open(str(path)) as environment, environment.begin(write=True) as transaction:
        assert transaction.delete(key.encode()) if value is None else transaction.put(key.encode(), value)


def edit(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


class TestOurs:
    @pytest.mark.parametrize("cut", [None, Cut(25, 20)])
    def test_a_whole_one_has_no_faults_and_is_left_as_it_is(self, root, tmp_path, cut):
        path = tmp_path / "y.lmdb"
        create_lmdb(root, path, cut=cut, progress=False)
        before = {item: (item.stat().st_mtime_ns, item.read_bytes()) for item in path.iterdir()}
        found = verify(path, root)
        assert found.faults == []
        assert found.values == found.hashed == found.compared == len(records(path)) >= 15
        assert {item: (item.stat().st_mtime_ns, item.read_bytes()) for item in path.iterdir()} == before

    def test_without_sources(self, path):
        found = verify(path)
        assert (found.faults, found.compared, found.hashed) == ([], 0, found.values)

    @pytest.mark.parametrize("hashes", [True, False])
    def test_a_flipped_byte(self, root, path, hashes):
        if not hashes:
            (path / "keys.jsonl").unlink()
        whole = values(path)["b/001_s001"][-300:]
        flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
        data = (path / "data.mdb").read_bytes()
        assert whole in data
        (path / "data.mdb").write_bytes(data.replace(whole, flipped))  # a page that is free again may have it as well
        (fault,) = verify(path).faults
        assert fault.startswith(
            "key 'b/001_s001': " + ("has another hash" if hashes else "the value: cannot be decoded")
        )

    def test_a_missing_value(self, path):
        change(path, "b/001_s002", None)
        with pytest.raises(InputError, match=r"images, but its meta_info\.txt lists"):
            verify(path)
        change(path, "other", b"x")
        (fault,) = verify(path).faults
        assert "has no image with the key 'b/001_s002'" in fault

    def test_a_value_too_many(self, path):
        change(path, "other", b"x")
        (fault,) = verify(path).faults
        assert fault.startswith(f"data.mdb holds {len(records(path)) + 1} values, but meta_info.txt lists")

    @pytest.mark.parametrize("size", ["(24,25,3)", "(25,24,3)", "(25,25,1)"])
    def test_a_wrong_size(self, path, size):
        edit(path / "meta_info.txt", "b/001_s002.png (25,25,3)", f"b/001_s002.png {size}")
        assert verify(path).faults == [f"key 'b/001_s002': is (25,25,3), but {size} in meta_info.txt"]

    def test_lists_that_differ(self, path):
        edit(path / "meta_info.txt", "b/001_s002.png (25,25,3) 1\n", "")
        faults = verify(path).faults
        assert len(faults) == 2
        assert "key 'b/001_s002' is in keys.jsonl, but not in meta_info.txt" in faults
        (path / "keys.jsonl").write_text("{}\n")
        with pytest.raises(InputError, match=r"keys\.jsonl: line 1 is damaged"):
            verify(path)

    def test_data_cut_short(self, path):
        close_environment(path)
        os.truncate(path / "data.mdb", os.path.getsize(path / "data.mdb") // 2)
        with pytest.raises(InputError, match=r"data\.mdb is cut short"):
            verify(path)

    def test_sources_that_changed(self, root, path):
        (root / "b/001.png").write_bytes(with_opencv(noise((41, 55), seed=99), ".png"))
        (root / "a/002.png").write_bytes(with_opencv(noise((10, 10)), ".png"))
        (root / "c/grey.png").write_bytes(b"x")
        (root / "c/alpha.png").unlink()
        write_files(root, {"new/x.png": with_opencv(noise((10, 10)), ".png")})
        assert verify(path).faults == []
        found = verify(path, root)
        keys = {r["source"]: [] for r in records(path)}
        for record in records(path):
            keys[record["source"]].append(record["key"])
        assert sorted(found.faults) == sorted(
            [
                f"key {key!r}: shows another picture than {name}"
                for name in ("b/001.png", "a/002.png")
                for key in keys[name]
            ]
            + [f"key {key!r}: its source c/alpha.png is missing" for key in keys["c/alpha.png"]]
            + [f"{root}/c/grey.png: cannot be decoded as an image; it is broken or of another kind, replace it"]
            + ["new/x.png: is not in the LMDB"]
        )

    def test_one_changed_pixel(self, root, path):
        image = noise((41, 55), seed=1)
        assert with_opencv(image, ".png") == (root / "b/001.png").read_bytes()
        image[20, 20, 0] ^= 1  # in the first four sub-images
        (root / "b/001.png").write_bytes(with_opencv(image, ".png"))
        faults = verify(path, root).faults
        assert len(faults) == sum(
            record["box"][0] <= 20 < record["box"][0] + 25 and record["box"][1] <= 20 < record["box"][1] + 25
            for record in records(path)
            if record["source"] == "b/001.png"
        )


class TestOfStockScripts:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_files(
            tmp_path / "stock", {f"{name}.png": with_opencv(noise((20, 30), i), ".png") for i, name in enumerate("abc")}
        )

    @staticmethod
    def pack(folder, path, keys=None):
        names = sorted(os.listdir(folder))
        make_lmdb_from_imgs(str(folder), str(path), names, keys or [name[:-4] for name in names], map_size=1 << 20)
        return path

    def test_are_compared_by_name(self, folder, tmp_path):
        path = self.pack(folder, tmp_path / "s.lmdb")
        found = verify(path, folder)
        assert (found.faults, found.values, found.hashed, found.compared) == ([], 3, 0, 3)
        shutil.copy(folder / "b.png", folder / "a.png")
        (folder / "c.png").rename(folder / "d.png")
        assert sorted(verify(path, folder).faults) == [
            "d.png: is not in the LMDB",
            "key 'a': shows another picture than a.png",
            "key 'c': an image of this name is missing",
        ]

    def test_sub_images_and_ambiguous_names_are_not_comparable(self, folder, tmp_path):
        path = self.pack(folder, tmp_path / "s.lmdb", ["x_s001", "x_s002", "b"])
        whole = write_files(tmp_path / "whole", {"x.png": (folder / "a.png").read_bytes(), "b.png": b"", "b.jpg": b""})
        found = verify(path, whole)
        assert (found.faults, found.compared, found.not_comparable) == ([], 0, 3)

    def test_a_grey_one_may_have_two_numbers(self, folder, tmp_path):
        (folder / "a.png").write_bytes(with_opencv(noise((20, 30), channels=1), ".png"))
        path = self.pack(folder, tmp_path / "s.lmdb")
        edit(path / "meta_info.txt", "(20,30,1) 1", "(20,30)")
        edit(path / "meta_info.txt", "b.png (20,30,3) 1", "b.png")
        assert verify(path, folder).faults == []
