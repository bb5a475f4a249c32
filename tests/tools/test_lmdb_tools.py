"""The scripts that make and check LMDBs, as commands."""

import os
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from nlcl_plugin.data.lmdb import create as lmdb_create
from nlcl_plugin.data.lmdb.store import close_environment


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "in"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        cv2.imwrite(str(root / f"{i}.jpg"), rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
    return root


@pytest.fixture
def tools(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    import create_lmdb
    import verify_lmdb

    return create_lmdb.main, verify_lmdb.main


def test_make_check_and_repeat(tools, folder, tmp_path, capsys):
    create, verify = tools
    path = tmp_path / "x.lmdb"
    command = ["--input", str(folder), "--output", str(path)]
    assert create([*command, "--crop", "130", "--step", "40", "--jobs", "3"]) == 0
    out = capsys.readouterr().out
    assert f"{path}: 6 images, 12 sub-images, " in out
    assert "0 taken byte for byte, 6 encoded in this run" in out
    assert "6 images were smaller than the crop" in out
    assert verify([str(path), "--against", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out == f"{path}: no faults\n12 images decoded, 12 hashes compared, 12 compared with {folder}\n"
    assert create([*command, "--crop", "130", "--step", "40"]) == 0
    assert "already made" in capsys.readouterr().out
    assert create(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert create([*command, "--overwrite"]) == 0
    assert "6 images, " in capsys.readouterr().out
    assert verify([str(path)]) == 0
    close_environment(path)


def test_unreadable_images_are_listed(tools, folder, tmp_path, capsys):
    create, verify = tools
    (folder / "2.jpg").write_bytes(b"x")
    (folder / "a\nb\udcff.png").write_bytes(b"")
    command = ["--input", str(folder), "--output", str(tmp_path / "x.lmdb")]
    assert create([*command, "--strict"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    for _ in range(2):
        assert create(command) == 3
        assert capsys.readouterr().out.splitlines()[-3:] == [
            "2 could not be read and were skipped:",
            "  2.jpg: cannot be decoded as an image; it is broken or of another kind, replace it",
            r"  a\nb\udcff.png: empty, expected an image; remove or replace it",
        ]
    assert verify([str(tmp_path / "x.lmdb"), "--against", str(folder)]) == 0
    close_environment(tmp_path / "x.lmdb")


def test_the_first_faults_and_their_number_are_shown(tools, folder, tmp_path, capsys):
    create, verify = tools
    command = ["--input", str(folder), "--output", str(tmp_path / "x.lmdb"), "--crop", "60", "--step", "30"]
    assert create(command) == 0
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "0.png").write_bytes(b"")
    capsys.readouterr()
    assert verify([str(tmp_path / "x.lmdb"), "--against", str(tmp_path / "none")]) == 2
    lines = capsys.readouterr().out.splitlines()
    faults = 6 * 15 + 1
    assert lines[0] == f"{tmp_path / 'x.lmdb'}: {faults} faults:"
    assert len(lines) == 1 + 20 + 1 + 1
    assert lines[-2] == f"  and {faults - 20} more"
    close_environment(tmp_path / "x.lmdb")


def test_interruption(tools, folder, tmp_path, capsys, monkeypatch):
    create, _ = tools

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lmdb_create, "encode_image", interrupt)
        assert create(["--input", str(folder), "--output", str(tmp_path / "x.lmdb")]) == 5
    assert "run the same command again" in capsys.readouterr().err
    assert not (tmp_path / "x.lmdb").exists()
    assert create(["--input", str(folder), "--output", str(tmp_path / "x.lmdb")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--crop", "0"], "--crop: got 0"),
        (["--crop", "5", "--step", "0"], "--step: got 0"),
        (["--crop", "5", "--threshold", "-1"], "--threshold: got -1"),
        (["--step", "5"], "give --crop too"),
        (["--threshold", "0"], "give --crop too"),
        (["--jobs", "0"], "--jobs: got 0"),
        (["--output", "x"], "ends in .lmdb"),
        (["--input", "nowhere"], "no such folder"),
    ],
)
def test_bad_usage(tools, folder, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    create, _ = tools
    assert create(["--input", "in", "--output", "x.lmdb", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert sorted(item.name for item in tmp_path.iterdir()) == ["in"]


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(repository, tools, folder, tmp_path):
    command = ["--input", str(folder), "--output", str(tmp_path / "x.lmdb")]
    done = subprocess.run(
        [sys.executable, repository / "tools" / "create_lmdb.py", *command],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path / 'x.lmdb'}: cannot be written (")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.lmdb").exists()
    assert tools[0](command) == 0
    assert not (tmp_path / "x.lmdb.building").exists()


def test_folders_that_may_not_be_entered(tools, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0)
    if os.access("closed", os.X_OK):
        pytest.skip("this user may enter any folder")
    create, verify = tools
    for command, arguments in (
        (create, ["--input", "closed/in", "--output", "x.lmdb"]),
        (create, ["--input", "closed", "--output", "x.lmdb"]),
        (create, ["--input", "in", "--output", "closed/x.lmdb"]),
        (verify, ["closed/x.lmdb"]),
    ):
        assert command(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("lmdb", ["none.lmdb", "in"])
def test_verify_reports_bad_input_in_one_line(tools, folder, tmp_path, capsys, lmdb):
    assert tools[1]([str(tmp_path / lmdb)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
