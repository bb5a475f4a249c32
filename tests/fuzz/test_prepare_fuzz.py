"""Whatever becomes of its records, lists and sources, a preparation ends in one line or a report, and harms nothing.

The draws are derived from the test itself, so that every run sees the same examples.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import cv2
import pytest
from conftest import REPOSITORY, photograph
from hostile import (
    CHANGED_TWICE,
    LINES,
    NAMES,
    change_anywhere,
    change_lines,
    examples,
    mutated,
    replace,
    tool,
    watch,
    written,
)

from nlcl_plugin.data.prepare.cache import sealed
from nlcl_plugin.data.prepare.output_folder import FACTS, JOURNAL, MANIFEST

PAIRS = 5
EXPRESSIONS = [
    "(",
    "[",
    "(?P<a>",
    "a{99999999999999999999}",
    "(" * 5000,
    "\\",
    "(?i",
    "",
    "()",
    "(.)(",
    "(\\d)",
    "(?<=a*)b",
]


def write_pairs(root):
    for number in range(PAIRS):
        for role in ("rainy", "clean"):
            path = root / role / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), photograph(20, 24, seed=2 * number + (role == "rainy")))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pairs, a list of them, and what is prepared of them."""
    root = tmp_path_factory.mktemp("prepare")
    write_pairs(root)
    (root / "list.txt").write_text("".join(f"{number}.png {number}.png\n" for number in range(PAIRS)))
    assert run(root, "whole") == 0
    return root


def run(root, name, *options):
    sources = ["--rainy", str(root / "rainy"), "--clean", str(root / "clean")]
    options = options or ("--pair-by", "stem")
    return tool("prepare_rain_dataset").main([*sources, "--output", str(root / name), "--keep-twins", *options])


def tree(folder):
    """All that is in a folder: files with their hashes, folders and others."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "other"
        for path in sorted(folder.rglob("*"))
    }


def check(place, capsys, options, name="out"):
    """Run, and see how it ends; returns the exit code."""
    outside = {folder: tree(place / folder) for folder in ("rainy", "clean", "whole")}
    watch().seen.clear()
    capsys.readouterr()
    watch().on = True
    try:
        code = run(place, name, *options)
    finally:
        watch().on = False
    out, err = capsys.readouterr()
    if code == 2:
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err[:-1].isprintable()
        assert len(err) < 1500
    else:
        assert code in (0, 3)
        assert err == ""
        assert "look at" in out or "dry run" in out
    assert [path for path in written() if repr(str(place / name))[:-1] not in path] == []
    assert {folder: tree(place / folder) for folder in outside} == outside
    return code


def change_facts(draw, text, kind):
    """Change what a line of facts says, and leave its checksum as it is."""
    return text[:9] + change_anywhere(draw, text[9:], kind)


def forge_facts(draw, text, kind):
    """The same with the right checksum."""
    return sealed(change_anywhere(draw, text[9:], kind))


def change_record(draw, output, change):
    """Change or replace a record, or a file that was made."""
    name = draw.choice([FACTS] * 4 + [MANIFEST] * 2 + ["other"])
    path = output / name
    if name == FACTS and path.is_file() and path.stat().st_size:
        before = path.read_bytes()
        changed = draw.random() < 0.8
        if changed and b"\n" in before.rstrip(b"\n"):
            first, rest = before.split(b"\n", 1)
            path.write_bytes(rest)
            change_lines(draw, path, change)
            path.write_bytes(first + b"\n" + path.read_bytes())
        else:
            path.write_bytes(mutated(draw, before))
    elif name == MANIFEST and path.is_file() and path.stat().st_size:
        change_lines(draw, path)
    else:
        replace(draw, draw.choice([path for path in output.rglob("*") if path.is_file()] or [path]))


def fuzz_records(place, capsys, count):
    outcomes = []

    @examples(count)
    def go(draw):
        shutil.rmtree(place / "out", ignore_errors=True)
        shutil.copytree(place / "whole", place / "out")
        if draw.random() < 0.4:
            (place / "out" / MANIFEST).rename(place / "out" / JOURNAL)
        change = draw.choice([change_facts, forge_facts])
        for _ in range(draw.choice([1, 1, 2])):
            try:
                change_record(draw, place / "out", change)
            except CHANGED_TWICE:
                continue
        options = ["--pair-by", "stem", *draw.choice([[], [], ["--copy"], ["--dry-run"]])]
        code = check(place, capsys, options)
        outcomes.append(code)
        if code == 0 and "--dry-run" not in options and change is change_facts:  # nothing changed was taken for true
            made, whole = tree(place / "out"), tree(place / "whole")
            made.pop(FACTS, None)
            whole.pop(FACTS)
            assert made == whole

    go()
    assert {0, 2} <= set(outcomes)


def test_mutated_records_of_a_preparation(place, capsys):
    fuzz_records(place, capsys, 60)


@pytest.mark.slow
def test_a_thousand_mutated_records_of_a_preparation(place, capsys):
    fuzz_records(place, capsys, 1000)


def list_file(draw, path):
    lines = path.read_bytes().splitlines(keepends=True)
    for _ in range(draw.randint(1, 3)):
        number = draw.randrange(len(lines))
        names = [draw.choice([*NAMES, "1.png", "0.png", "a b.png", "/0.png", "..\\0.png", "0.png/.."]) for _ in "ab"]
        line = " ".join(names).encode("utf-8", "surrogatepass") + b"\n"
        lines[number : number + draw.randint(0, 1)] = [draw.choice([line, line, line, *LINES])]
    data = b"".join(lines)
    return mutated(draw, data) if draw.random() < 0.3 else data


def fuzz_lists(place, capsys, count):
    @examples(count)
    def go(draw):
        shutil.rmtree(place / "out", ignore_errors=True)
        (place / "mutated.txt").write_bytes(list_file(draw, place / "list.txt"))
        check(place, capsys, ["--pair-by", "list", "--list", str(place / "mutated.txt")])

    go()


def test_mutated_lists_of_pairs(place, capsys):
    fuzz_lists(place, capsys, 40)


@pytest.mark.slow
def test_a_thousand_mutated_lists_of_pairs(place, capsys):
    fuzz_lists(place, capsys, 1000)


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=range(len(EXPRESSIONS)))
def test_any_regular_expression(place, capsys, expression):
    shutil.rmtree(place / "out", ignore_errors=True)
    assert check(place, capsys, ["--pair-by", "regex", "--rainy-regex", expression]) in (0, 2)
    shutil.rmtree(place / "out", ignore_errors=True)
    assert check(place, capsys, ["--pair-by", "stem", "--scene", expression]) in (0, 2)


UNREADABLE = ("empty", "cut", "loop", "nowhere", "huge")
STRANGE = (b"two\nlines", b"\x1b[31mred", b"\xff\xfe", b"tab\t", b"-rf", "ä\u202e".encode(), b"~", b"=..%")


def hostile_tree(root):
    """Pairs among all that may be in a folder of somebody else."""
    write_pairs(root)
    rainy = root / "rainy"
    for number, name in enumerate((*STRANGE, *map(str.encode, UNREADABLE))):
        for role in ("rainy", "clean"):
            image = photograph(20, 24, seed=50 + 2 * number + (role == "rainy"))
            with open(os.fsencode(root / role) + b"/" + name + b".png", "wb") as file:
                file.write(cv2.imencode(".png", image)[1].tobytes())
    data = (rainy / "cut.png").read_bytes()
    for name in UNREADABLE:
        (rainy / f"{name}.png").unlink()
    (rainy / "empty.png").touch()
    (rainy / "cut.png").write_bytes(data[:60])
    (rainy / "loop.png").symlink_to("loop.png")
    (rainy / "nowhere.png").symlink_to("/nowhere/at/all.png")
    with open(rainy / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(rainy / "pipe.png")
    os.mkfifo(rainy / "pipe.txt")
    (rainy / "device.png").symlink_to("/dev/zero")
    (rainy / "up").symlink_to("..")
    (rainy / "self").symlink_to(".")
    (root / "films").mkdir()
    for name in (b"\xff\n.mp4", b"empty.avi"):
        open(os.fsencode(root) + b"/films/" + name, "wb").close()
    (root / "films" / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n")


def command(*arguments):
    return subprocess.run(
        [sys.executable, REPOSITORY / "tools/prepare_rain_dataset.py", *map(str, arguments)],
        capture_output=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_tree_of_somebody_else_is_prepared_and_what_cannot_be_read_is_listed(tmp_path):
    hostile_tree(tmp_path)
    before = os.listdir(tmp_path / "rainy")
    done = command("--rainy", tmp_path / "rainy", "--clean", tmp_path / "clean", "--output", tmp_path / "out",
                   "--pair-by", "stem", "--keep-twins", "--allow-leakage")  # fmt: skip
    assert (done.returncode, done.stderr) == (3, b"")
    lines = done.stdout.decode().splitlines()
    assert all(line.isprintable() for line in lines)
    listed = "\n".join(line for line in lines if line.startswith("unreadable: "))
    assert [name for name in UNREADABLE if f"{name}.png" not in listed] == []
    records = [json.loads(line) for line in (tmp_path / "out" / MANIFEST).read_text().splitlines()]
    assert len(records) == 2 * (PAIRS + len(STRANGE))
    assert {os.fsencode(record["source"]) for record in records} >= {name + b".png" for name in STRANGE}
    for record in records:
        path = tmp_path / "out" / record["path"]
        assert path.name.isprintable()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == record["sha256"]
    assert sorted(os.listdir(tmp_path / "rainy")) == sorted(before)


def test_films_that_are_none_are_listed(tmp_path):
    hostile_tree(tmp_path)
    (tmp_path / "rainy" / "0.png").rename(tmp_path / "films" / "0.png")
    done = command("--layout", "two-folders", "--rainy", tmp_path / "films", "--clean", tmp_path / "clean",
                   "--output", tmp_path / "out")  # fmt: skip
    assert (done.returncode, done.stderr) == (3, b"")
    listed = "\n".join(line for line in done.stdout.decode().splitlines() if line.startswith("unreadable: "))
    assert [name for name in (r"\udcff\n.mp4", "empty.avi", "playlist.mp4") if name not in listed] == []


@pytest.mark.parametrize("where", ["rainy", "out"])
def test_a_tree_of_any_depth_ends_in_one_line(tmp_path, where):
    write_pairs(tmp_path)
    (tmp_path / where).mkdir(exist_ok=True)
    home = os.open(tmp_path / where, os.O_RDONLY)
    try:
        os.fchdir(home)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(REPOSITORY)
        os.close(home)
    arguments = ["--rainy", str(tmp_path / "rainy"), "--clean", str(tmp_path / "clean"), "--pair-by", "stem"]
    done = command(*arguments, "--output", tmp_path / "out")
    subprocess.run(["rm", "-rf", tmp_path / where], check=True)  # Python's own way cannot go so deep
    assert done.returncode == 2
    assert done.stderr.decode().count("\n") == 1
    assert ("folders are in each other" if where == "rainy" else "not of this preparation") in done.stderr.decode()
