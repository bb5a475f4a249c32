import os
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
from lmdb_helpers import write_lmdb

from nlcl_plugin.data.lmdb import store as lmdb_store
from nlcl_plugin.data.lmdb.store import LmdbImages, close_environment
from nlcl_plugin.errors import InputError

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture
def store(tmp_path):
    path = write_lmdb(tmp_path / "store.lmdb", {f"{i:03d}": bytes([i]) * 3000 for i in range(40)})
    yield path
    close_environment(path)


def read_all(images):
    """Read everything; in a child process, the exit code says whether it was right."""
    for i, key in enumerate(images.names):
        assert images.read(key) == bytes([i]) * 3000


def in_child(check):
    """Run a check in a forked process; it must end by itself and well."""
    with warnings.catch_warnings():  # Python 3.12 warns of forks while threads run, which is what we test
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            check()
            status = 0
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            assert status == 0
            return
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    pytest.fail("the child hangs")


class TestKeys:
    def test_are_what_stands_before_the_ending(self, tmp_path):
        meta = {
            "000.png (120,120,3) 1": "000",
            "a/b/000.png (120, 120, 3) 1": "a/b/000",
            "two words.PNG (1,1,3) 1": "two words",
            "photo (2).jpg (120,120) 9": "photo (2)",
            "photo (2,2,3) 1.jpeg (120,120,3) 9": "photo (2,2,3) 1",
            "v1.2.final.png (1,1,3) 1": "v1.2.final",
            "twice.png.png (1,1,3) 1": "twice.png",
            "雨.webp": "雨",
            "x.png (1,1,1)": "x",
        }
        path = write_lmdb(tmp_path / "x.lmdb", dict.fromkeys(meta.values(), b"v"), ["", *meta, "   "])
        images = LmdbImages(path)
        assert images.names == list(meta.values())
        assert {images.read(key) for key in images.names} == {b"v"}

    @pytest.mark.parametrize(
        ("lines", "message"),
        [
            (["ok.png (1,1,3) 1", "a (1,1,3) 1"], r"line 2 is .* expected 'name\.png \(h,w,c\) level'"),
            ([".png (1,1,3) 1"], "line 1 is"),
            (["../../x.png (1,1,3) 1"], "leads out of any folder"),
            (["a.png (1,1,3) 1", "b.png", "a.png (1,1,3) 1"], "key 'a' is in the lines 1 and 3, .* overwritten"),
            ([], "lists no image"),
            (["a.png (1,1,3) 1", "b.png (1,1,3) 1"], "1 images, but its meta_info.txt lists 2"),
        ],
    )
    def test_refuses_other_lists(self, tmp_path, lines, message):
        with pytest.raises(InputError, match=message):
            LmdbImages(write_lmdb(tmp_path / "x.lmdb", {"a": b"v"}, lines))


class TestErrors:
    def test_paths(self, tmp_path):
        for folder in ("folder", "x.lmdb", "y.lmdb"):
            (tmp_path / folder).mkdir()
        for file in ("file.lmdb", "y.lmdb/data.mdb"):
            (tmp_path / file).write_bytes(b"")
        for name, message in (
            ("folder", r"expected a folder whose name ends in \.lmdb"),
            ("none.lmdb", "no such folder"),
            ("file.lmdb", "no such folder"),
            ("x.lmdb", r"data\.mdb is missing"),
            ("y.lmdb", r"meta_info\.txt is missing"),
        ):
            with pytest.raises(InputError, match=f"{name}: {message}"):
                LmdbImages(tmp_path / name)

    @pytest.mark.parametrize("data", [b"", b"no database" * 1000])
    def test_data_that_is_no_database(self, store, data):
        (store / "data.mdb").write_bytes(data)
        with pytest.raises(InputError, match=r"store\.lmdb: cannot be opened as an LMDB"):
            LmdbImages(store)

    def test_data_cut_short_is_refused_before_it_kills_the_process(self, store):
        os.truncate(store / "data.mdb", os.path.getsize(store / "data.mdb") // 2)
        with pytest.raises(InputError, match=r"store\.lmdb: data\.mdb is cut short, \d+ of \d+ bytes"):
            LmdbImages(store)

    def test_keys_without_an_image(self, tmp_path):
        images = LmdbImages(write_lmdb(tmp_path / "x.lmdb", {"a": b"v", "none": b""}))
        for key, message in (
            ("b", "has no image with the key 'b'"),
            ("none", "has no image with the key 'none', or an empty one"),
            ("", "key '' cannot be read"),
            ("a" * 600, "has no image with the key 'aaa"),  # longer than lmdb can store
        ):
            with pytest.raises(InputError, match=rf"x\.lmdb: {message}"):
                images.read(key)


class TestSharing:
    def test_every_path_to_it_shares_one_environment(self, store, tmp_path, monkeypatch):
        (tmp_path / "link.lmdb").symlink_to(store)
        monkeypatch.chdir(tmp_path)
        for path in (store, f"{store}/", "store.lmdb", f"../{tmp_path.name}/store.lmdb", "link.lmdb"):
            read_all(LmdbImages(path))
        mine = [path for path in lmdb_store._environments if path.startswith(os.path.realpath(tmp_path))]
        assert mine == [os.path.realpath(store)]

    def test_threads(self, store):
        images = [LmdbImages(store) for _ in range(4)]
        close_environment(store)  # so that the threads race to open it
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read_all, images * 10))

    def test_pickles_without_the_environment(self, store):
        read_all(pickle.loads(pickle.dumps(LmdbImages(store))))  # noqa: S301


@needs_fork
class TestFork:
    def test_child_and_parent_continue_reading(self, store):
        images = LmdbImages(store)
        read_all(images)
        parent_environment = lmdb_store._environments[os.path.realpath(store)]

        def check():
            read_all(images)
            read_all(LmdbImages(store))
            assert lmdb_store._environments[os.path.realpath(store)] is not parent_environment
            in_child(lambda: read_all(images))
            read_all(images)

        in_child(check)
        read_all(images)
        assert lmdb_store._environments[os.path.realpath(store)] is parent_environment
