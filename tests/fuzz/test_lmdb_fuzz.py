"""Whatever becomes of the files of an LMDB, it is read, or refused in one line, and nothing outside it is touched.

`data.mdb` is read in a process of its own, as lmdb maps it into memory and trusts what it finds there. The draws are
derived from the test itself, so that every run sees the same examples.
"""

import contextlib
import os
import shutil

import cv2
import pytest
from conftest import photograph
from hostile import LINES, assert_one_line, change_lines, change_top, examples, in_child, mutated, tool

from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.data.lmdb.keys import read_records
from nlcl_plugin.data.lmdb.store import LmdbImages, close_environment
from nlcl_plugin.data.lmdb.verify import verify_lmdb
from nlcl_plugin.errors import InputError

META = [
    "../../x.png (24,30,3) 1", "/etc/passwd.png (24,30,3) 1", "a\0b.png (1,1,3) 1", "a0.png", "a0.png (24,30,3) 1",
    "a0.png (99999999999999999999,1,3) 1", "a0.png (0,0,0) 1", "a0", "", "\ufeff", "x" * 600 + ".png (1,1,1) 1",
    "ä.png (1,1,3) 1", ".png (1,1,3) 1", "a0.png (24,30) 1", "a0.png (24,30,3) 1 2", "\x1b[31m.png (1,1,3) 1",
    "a.b.png",
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


def change_meta(draw, path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for _ in range(draw.randint(1, 2)):
        number = draw.randrange(len(lines))
        lines[number : number + draw.randint(0, 1)] = [draw.choice(META)]
    path.write_bytes(("\n".join(lines) + "\n").encode())
    if draw.random() < 0.3:
        path.write_bytes(mutated(draw, path.read_bytes()))


def mutate(draw, folder):
    """Change some files of an LMDB."""
    for _ in range(draw.choice([1, 1, 2])):
        name = draw.choice(
            ["data.mdb", "data.mdb", "meta_info.txt", "meta_info.txt", "keys.jsonl", "keys.jsonl", "other"]
        )
        path = folder / name
        if name == "data.mdb" and path.is_file():
            for _ in range(draw.randint(1, 3)):
                path.write_bytes(mutated(draw, path.read_bytes()))
        elif name == "meta_info.txt" and path.is_file():
            with contextlib.suppress(ValueError):
                change_meta(draw, path)
        elif name == "keys.jsonl" and path.is_file() and path.stat().st_size:
            with contextlib.suppress(ValueError, IndexError, TypeError):  # changed twice
                change_lines(draw, path, change_top)
        else:
            path = folder / draw.choice(["data.mdb", "meta_info.txt", "keys.jsonl", "build.json", "skipped.jsonl"])
            kind = draw.choice(["missing", "folder", "loop", "empty", "line"])
            path.unlink(missing_ok=True) if not path.is_dir() else None
            if kind == "folder":
                path.mkdir(exist_ok=True)
            elif kind == "loop" and not path.exists():
                path.symlink_to(path.name)
            elif kind in ("empty", "line") and not path.exists():
                path.write_bytes(b"" if kind == "empty" else draw.choice(LINES))


def read_all(path):
    images = LmdbImages(path)
    for key in images.keys:
        with contextlib.suppress(InputError):
            assert images.get(key)


def tools_on(place, draw):
    """Read an LMDB in all ways, and build on it."""
    folder = place / "x.lmdb"
    outcomes = []
    ways = [
        lambda: read_all(folder),
        lambda: list(read_records(folder)),
        lambda: verify_lmdb(folder, progress=False),
        lambda: verify_lmdb(folder, against=place / "images", progress=False),
    ]
    for way in ways:
        try:
            way()
            outcomes.append("done")
        except InputError as error:
            assert_one_line(error)
            outcomes.append("refused")
    close_environment(folder)
    for name, arguments in (
        ("verify_lmdb", [str(folder)]),
        (
            "create_lmdb",
            ["--input", str(place / "images"), "--output", str(folder), *["--overwrite"][: draw.randrange(2)]],
        ),
    ):
        close_environment(folder)
        code = tool(name).main(arguments)
        assert code in (0, 2, 3)
    # An unfinished one, which the next run takes up.
    if (place / "x.lmdb.building").is_dir():
        code = tool("create_lmdb").main(["--input", str(place / "images"), "--output", str(folder)])
        assert code in (0, 2, 3)
    return outcomes


def fuzz(place, count):
    @examples(count)
    def run(draw):
        for name in ("x.lmdb", "x.lmdb.building", "x.lmdb.replaced"):
            shutil.rmtree(place / name, ignore_errors=True)
        target = place / ("x.lmdb.building" if draw.random() < 0.3 else "x.lmdb")
        shutil.copytree(place / "whole.lmdb", target)
        mutate(draw, target)
        assert in_child(lambda: tools_on(place, draw)) == 0
        assert {path.name for path in place.iterdir()} <= {"images", "whole.lmdb", "x.lmdb", "x.lmdb.building"}
        assert sorted(os.listdir(place / "images")) == [f"a{number}.png" for number in range(6)]

    run()


def test_mutated_lmdbs_are_read_or_refused_in_one_line(place):
    fuzz(place, 40)


@pytest.mark.slow
def test_a_thousand_mutated_lmdbs(place):
    fuzz(place, 1000)
