"""The scripts that make and check LMDBs, as commands."""

import os
import resource

import cv2
import numpy as np
import pytest
from create_lmdb import main as create
from verify_lmdb import main as verify

from nlcl_plugin.data.lmdb.store import close_environment


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(root / f"{i}.jpg"), rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    return root


@pytest.fixture(autouse=True)
def current_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    yield
    close_environment(tmp_path / "x.lmdb")


COMMAND = ["--input", "in", "--output", "x.lmdb"]


def test_make_check_and_repeat(folder, capsys):
    cut = ["--crop", "130", "--step", "40"]
    assert create([*COMMAND, *cut, "--jobs", "3"]) == 0
    assert "x.lmdb: 6 images, 12 sub-images, " in capsys.readouterr().out
    assert verify(["x.lmdb", "--against", "in"]) == 0
    out = capsys.readouterr().out
    assert out == "x.lmdb: no faults\n12 images decoded, 12 SHA-256 sums compared, 12 compared with in\n"
    assert create([*COMMAND, *cut]) == 0
    assert "already made" in capsys.readouterr().out
    assert create(COMMAND) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert create([*COMMAND, "--overwrite"]) == 0
    assert verify(["x.lmdb"]) == 0


def test_unreadable_images_and_the_first_faults_are_listed(folder, tmp_path, capsys):
    (folder / "2.jpg").write_bytes(b"x")
    assert create([*COMMAND, "--strict"]) == 2
    assert create([*COMMAND, "--crop", "60", "--step", "30"]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "skipped 1 file that could not be read:",
        "  2.jpg: cannot be decoded as an image; it is broken or of another kind, replace it",
    ]
    for i in (0, 1, 3, 4, 5):
        cv2.imwrite(str(folder / f"{i}.jpg"), np.zeros((120, 160, 3), np.uint8))
    assert verify(["x.lmdb", "--against", "in"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"x.lmdb: {5 * 15} faults:"
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[-2] == f"  and {5 * 15 - 20} more"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--threshold", "0"], "give --crop too"),
        (["--input", "nowhere"], "no such folder"),
    ],
)
def test_bad_usage_is_one_line(folder, tmp_path, capsys, arguments, words):
    assert create([*COMMAND, *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in"]
    assert verify(["none.lmdb"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_full_disk_is_one_line_and_the_run_continues_when_there_is_room(folder, tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        assert create(COMMAND) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: x.lmdb: cannot be written (")
    assert not (tmp_path / "x.lmdb").exists()
    assert create(COMMAND) == 0
    assert sorted(os.listdir(tmp_path)) == ["in", "x.lmdb"]
