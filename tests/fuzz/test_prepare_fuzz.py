"""Whatever becomes of its records, lists and sources, a preparation ends in one line or a report, and harms nothing.

The draws are derived from the test itself, so that every run sees the same examples.
"""

import hashlib
import json
import os
import shutil

import cv2
import pytest
from conftest import photograph
from hostile import LINES, NAMES, examples, mutated, tool, watch, written

from nlcl_plugin.data.prepare.execute import FACTS, JOURNAL, MANIFEST

PAIRS = 5
UNREADABLE = ("empty", "cut", "loop", "nowhere", "huge")
STRANGE = (b"two\nlines", b"\x1b[31mred", b"\xff\xfe", b"-rf", "ä\u202e".encode(), b"=..%")


def write_pairs(root, names=range(PAIRS)):
    for number, name in enumerate(names):
        for role in ("rainy", "clean"):
            (root / role).mkdir(exist_ok=True)
            image = photograph(20, 24, seed=2 * number + (role == "rainy") + 100 * len(names))
            (root / role / f"{name}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pairs, and what is prepared from them."""
    root = tmp_path_factory.mktemp("prepare")
    write_pairs(root)
    assert run(root, "whole", "--pair-by", "stem") == 0
    return root


def run(root, name, *options):
    sources = ["--rainy", str(root / "rainy"), "--clean", str(root / "clean")]
    return tool("prepare_rain_dataset").main([*sources, "--output", str(root / name), "--keep-twins", *options])


def tree(folder):
    """All that is in a folder: files with their hashes, folders and others."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"
        for path in sorted(folder.rglob("*"))
    }


def check(place, capsys, *options):
    """Run, and check that it ends well and writes nothing but the output; returns the exit code."""
    outside = {folder: tree(place / folder) for folder in ("rainy", "clean", "whole")}
    watch().seen.clear()
    watch().on = True
    try:
        code = run(place, "out", *options)
    finally:
        watch().on = False
    out, err = capsys.readouterr()
    if code == 2:
        assert err.startswith("error: ")
        assert err[:-1].isprintable()
        assert len(err) < 1500
    else:
        assert code in (0, 3)
        assert "look at" in out
    assert [path for path in written() if repr(str(place / "out"))[:-1] not in path] == []
    assert {folder: tree(place / folder) for folder in outside} == outside
    return code


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_damaged_records_and_files_are_mended_or_refused(place, capsys, count):
    whole, outcomes = tree(place / "whole"), set()

    @examples(count)
    def go(draw):
        shutil.rmtree(place / "out", ignore_errors=True)
        shutil.copytree(place / "whole", place / "out")
        if draw.random() < 0.5:
            (place / "out" / MANIFEST).rename(place / "out" / JOURNAL)
        path = draw.choice(sorted(path for path in (place / "out").rglob("*") if path.is_file()))
        path.write_bytes(mutated(draw, path.read_bytes()[: draw.choice([None, -1, 200])]))
        code = check(place, capsys, "--pair-by", "stem", *draw.choice([[], ["--copy"]]))
        outcomes.add(code)
        if code == 0 and path.name != FACTS:
            assert {**tree(place / "out"), FACTS: None} == {**whole, FACTS: None}

    go()
    assert {0, 2} <= outcomes


@pytest.mark.parametrize("count", [20, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_lists_of_pairs(place, capsys, count):
    names = [*NAMES, "1.png", "0.png", "a b.png", "/0.png", "..\\0.png", "0.png/.."]

    @examples(count)
    def go(draw):
        shutil.rmtree(place / "out", ignore_errors=True)
        lines = [b"%d.png %d.png\n" % (number, number) for number in range(PAIRS)]
        for _ in range(draw.randint(1, 3)):
            line = f"{draw.choice(names)} {draw.choice(names)}\n".encode("utf-8", "surrogatepass")
            lines[draw.randrange(len(lines))] = draw.choice([line, line, line, *LINES])
        data = b"".join(lines)
        (place / "list.txt").write_bytes(mutated(draw, data) if draw.random() < 0.3 else data)
        check(place, capsys, "--pair-by", "list", "--list", str(place / "list.txt"))

    go()


def test_unreadable_files_are_listed_and_all_others_prepared(tmp_path, capsys):
    write_pairs(tmp_path)
    write_pairs(tmp_path, [*map(os.fsdecode, STRANGE), *UNREADABLE])
    rainy = tmp_path / "rainy"
    for name in UNREADABLE:
        (rainy / f"{name}.png").unlink()
    (rainy / "empty.png").touch()
    (rainy / "cut.png").write_bytes((rainy / "0.png").read_bytes()[:60])
    (rainy / "loop.png").symlink_to("loop.png")
    (rainy / "nowhere.png").symlink_to("/nowhere/at/all.png")
    with open(rainy / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(rainy / "pipe.png")
    (rainy / "device.png").symlink_to("/dev/zero")
    (rainy / "self").symlink_to(".")
    assert run(tmp_path, "out", "--pair-by", "stem", "--allow-leakage") == 3
    out, err = capsys.readouterr()
    assert (err, all(line.isprintable() for line in out.splitlines())) == ("", True)
    listed = "\n".join(line for line in out.splitlines() if line.startswith("unreadable: "))
    assert [name for name in UNREADABLE if f"{name}.png" not in listed] == []
    records = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text().splitlines()]
    assert len(records) == 2 * (PAIRS + len(STRANGE))
    assert {os.fsencode(record["source"]) for record in records} >= {name + b".png" for name in STRANGE}
    for record in records:
        path = tmp_path / "out" / record["path"]
        assert path.name.isprintable()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]


def test_videos_that_are_none_are_listed(tmp_path, capsys):
    write_pairs(tmp_path)
    for name, content in ((b"\xff\n.mp4", b""), (b"playlist.mp4", b"#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n")):
        with open(os.fsencode(tmp_path) + b"/rainy/" + name, "wb") as file:
            file.write(content)
    assert run(tmp_path, "out", "--layout", "two-folders") == 3
    out, err = capsys.readouterr()
    assert (err, r"\udcff\n.mp4" in out, "playlist.mp4" in out) == ("", True, True)
