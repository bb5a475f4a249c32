import lmdb
import numpy as np
import pytest
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from lmdb_helpers import noise, records, some_images, values, with_opencv, with_pillow, write_files

from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.data.lmdb.encode import Cut
from nlcl_plugin.data.lmdb.store import close_environment
from nlcl_plugin.data.lmdb.verify import verify_lmdb
from nlcl_plugin.errors import InputError


@pytest.fixture
def root(tmp_path):
    files = some_images(9) | {
        "c/turned.jpg": with_pillow(noise((30, 40)), "JPEG", orientation=6),
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
    create_lmdb(root, path, cut=Cut(25, 20))
    yield path
    close_environment(path)


def verify(path, against=None):
    close_environment(path)
    return verify_lmdb(path, against=against, jobs=2)


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
        create_lmdb(root, path, cut=cut)
        before = {item: (item.stat().st_mtime_ns, item.read_bytes()) for item in path.iterdir()}
        found = verify(path, root)
        assert found.faults == []
        assert found.values == found.hashed == found.compared == len(records(path)) >= 15
        alone = verify(path)
        assert (alone.faults, alone.compared, alone.hashed) == ([], 0, found.values)
        assert {item: (item.stat().st_mtime_ns, item.read_bytes()) for item in path.iterdir()} == before

    @pytest.mark.parametrize("hashes", [True, False])
    def test_a_flipped_byte(self, path, hashes):
        if not hashes:
            (path / "keys.jsonl").unlink()
        whole = values(path)["b/001_s001"][-300:]
        flipped = whole[:100] + bytes([whole[100] ^ 1]) + whole[101:]
        data = (path / "data.mdb").read_bytes()
        assert whole in data
        (path / "data.mdb").write_bytes(data.replace(whole, flipped))  # a page that is free again may have it as well
        (fault,) = verify(path).faults
        reason = "has another hash" if hashes else "the value: cannot be decoded"
        assert fault.startswith(f"key 'b/001_s001': {reason}")

    def test_values_that_are_missing_or_too_many(self, path):
        change(path, "b/001_s002", None)
        with pytest.raises(InputError, match=r"images, but its meta_info\.txt lists"):
            verify(path)
        change(path, "other", b"x")
        (fault,) = verify(path).faults
        assert "has no image with the key 'b/001_s002'" in fault
        change(path, "another", b"x")
        assert verify(path).faults[0].startswith(f"data.mdb contains {len(records(path)) + 1} values, but meta_info")

    def test_lists_that_differ_or_are_damaged(self, path, root):
        edit(path / "meta_info.txt", "b/001_s002.png (25,25,3) 1\n", "")
        assert "key 'b/001_s002' is in only one of meta_info.txt and keys.jsonl" in verify(path).faults
        (path / "keys.jsonl").write_bytes(b"{}\n")
        with pytest.raises(InputError, match=r"keys\.jsonl: .*damaged"):
            verify(path, against=root)

    def test_sources_that_changed(self, root, path):
        (root / "b/001.png").write_bytes(with_opencv(noise((41, 55), seed=99), ".png"))
        (root / "a/002.png").write_bytes(with_opencv(noise((10, 10)), ".png"))
        (root / "c/grey.png").write_bytes(b"x")
        (root / "c/alpha.png").unlink()
        write_files(root, {"new/x.png": with_opencv(noise((10, 10)), ".png")})
        assert verify(path).faults == []
        with pytest.raises(InputError, match=r"new: contains none of the images that .* is made of; give their folder"):
            verify(path, root / "new")
        keys = {}
        for record in records(path):
            keys.setdefault(record["source"], []).append(record["key"])
        changed = [(name, key) for name in ("b/001.png", "a/002.png") for key in keys[name]]
        assert sorted(verify(path, root).faults) == sorted(
            [f"key {key!r}: shows another picture than {name}" for name, key in changed]
            + [f"{root}/c/alpha.png: cannot be read (No such file or directory); expected an image file"]
            + [f"{root}/c/grey.png: cannot be decoded as an image; it is broken or of another kind, replace it"]
            + ["new/x.png: is not in the LMDB"]
        )


def test_one_of_a_stock_script_is_checked_by_itself(tmp_path):
    files = {f"{name}.png": with_opencv(noise((20, 30), i, 1 if name == "a" else 3)) for i, name in enumerate("abc")}
    folder, path = write_files(tmp_path / "stock", files), tmp_path / "s.lmdb"
    make_lmdb_from_imgs(str(folder), str(path), sorted(files), list("abc"), map_size=1 << 20)
    edit(path / "meta_info.txt", "(20,30,1) 1", "(20,30)")  # a grey one may have two numbers
    edit(path / "meta_info.txt", "b.png (20,30,3) 1", "b.png")
    found = verify(path)
    assert (found.faults, found.values, found.hashed, found.compared) == ([], 3, 0, 0)
    with pytest.raises(InputError, match=r"has no keys\.jsonl"):
        verify(path, folder)
    edit(path / "meta_info.txt", "(20,30,3) 1", "(20,31,3) 1")
    assert verify(path).faults == ["key 'c': is (20, 30, 3), but (20, 31, 3) in meta_info.txt"]
