"""Whatever damages the files of an LMDB, it is read, or refused in one line, and nothing outside it is touched.

`data.mdb` is read in a process of its own, as lmdb maps it into memory and trusts what it finds there.
"""

import contextlib
import os
import shutil

import cv2
import pytest
from conftest import photograph
from hostile import LINES, assert_one_line, examples, in_child, mutated, tool

from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.data.lmdb.store import LmdbImages, close_environment
from nlcl_plugin.data.lmdb.verify import verify_lmdb
from nlcl_plugin.errors import InputError

META = [
    "../../x.png (24,30,3) 1", "/etc/passwd.png (24,30,3) 1", "a\0b.png (1,1,3) 1", "a0.png", "a0.png (24,30,3) 1",
    "a0.png (99999999999999999999,1,3) 1", "a0", "", "\ufeff", "x" * 600 + ".png (1,1,1) 1", "\x1b[31m.png (1,1,3) 1",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images and an LMDB of it, whole."""
    root = tmp_path_factory.mktemp("lmdb")
    (root / "images").mkdir()
    for number in range(6):
        cv2.imwrite(str(root / "images" / f"a{number}.png"), photograph(24, 30, seed=number))
    create_lmdb(root / "images", root / "whole.lmdb", progress=False)
    return root


def damage(draw, folder):
    """Change bytes of a file, put something else in its place, or a line into the list of images."""
    path = folder / draw.choice(["data.mdb", "meta_info.txt", "keys.jsonl", "build.json", "skipped.jsonl"])
    kind = draw.choice(["bytes", "bytes", "bytes", "line", "missing", "folder"])
    if path.name == "meta_info.txt" and draw.random() < 0.5:
        lines = path.read_text(encoding="utf-8").splitlines()
        lines[draw.randrange(len(lines))] = draw.choice(META)
        path.write_bytes(("\n".join(lines) + "\n").encode())
    elif kind == "bytes" and path.exists():
        path.write_bytes(mutated(draw, path.read_bytes()))
    else:
        path.unlink(missing_ok=True)
        if kind == "folder":
            path.mkdir()
        elif kind == "line":
            path.write_bytes(draw.choice(LINES))


def read_all(path):
    images = LmdbImages(path)
    for key in images.keys:
        with contextlib.suppress(InputError):
            assert images.get(key)


def use(place, draw):
    """Read an LMDB in all ways, and build on it."""
    folder = place / "x.lmdb"
    for way in (
        lambda: read_all(folder),
        lambda: verify_lmdb(folder, progress=False),
        lambda: verify_lmdb(folder, against=place / "images", progress=False),
    ):
        try:
            way()
        except InputError as error:
            assert_one_line(error)
    close_environment(folder)
    arguments = ["--input", str(place / "images"), "--output", str(folder)]
    assert tool("create_lmdb").main([*arguments, *["--overwrite"][: draw.randrange(2)]]) in (0, 2, 3)


def fuzz(place, count):
    @examples(count)
    def run(draw):
        for name in ("x.lmdb", "x.lmdb.building", "x.lmdb.replaced"):
            shutil.rmtree(place / name, ignore_errors=True)
        target = place / ("x.lmdb.building" if draw.random() < 0.3 else "x.lmdb")
        shutil.copytree(place / "whole.lmdb", target)
        damage(draw, target)
        assert in_child(lambda: use(place, draw)) == 0
        assert {path.name for path in place.iterdir()} <= {"images", "whole.lmdb", "x.lmdb", "x.lmdb.building"}
        assert sorted(os.listdir(place / "images")) == [f"a{number}.png" for number in range(6)]

    run()


def test_damaged_lmdbs_are_read_or_refused_in_one_line(place):
    fuzz(place, 15)


@pytest.mark.slow
def test_many_damaged_lmdbs(place):
    fuzz(place, 500)
