"""The script of the preparation, as a command."""

import os
import subprocess
import sys

import numpy as np
import pytest

from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.data.prepare.output_folder import at_work
from nlcl_plugin.errors import InputError


def run(repository, *arguments):
    script = repository / "tools" / "prepare_rain_dataset.py"
    return subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.fixture
def main(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    import prepare_rain_dataset

    return prepare_rain_dataset.main


def test_the_command_reports_a_fault_in_one_line(repository, tmp_path):
    done = run(repository, tmp_path / "missing", "--layout", "GT-RAIN", "--output", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {tmp_path / 'missing'}: ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SOURCE"], "give --layout"),
        (["SOURCE", "--layout", "GT-RAIN", "--pair-by", "stem"], "remove one"),
        (["SOURCE", "--layout", "GT-RAIN"], "no images of layout GT-RAIN"),
        (["SOURCE", "--layout", "SPA-Data"], "no list of pairs"),
        (["SOURCE", "--layout", "side-by-side"], "--rain-side"),
        (["--layout", "two-folders"], "--rainy"),
        (["SOURCE", "--layout", "GT-RAIN", "--val-fraction", "1.5"], "--val-fraction: got 1.5"),
        (["SOURCE", "--layout", "GT-RAIN", "--val-fraction", "nan"], "--val-fraction: got nan"),
        (["SOURCE", "--layout", "GT-RAIN", "--jobs", "0"], "--jobs: got 0"),
        (["SOURCE", "--layout", "GT-RAIN", "--output", "SOURCE/out"], "overlaps"),
        (["SOURCE", "--layout", "GT-RAIN", "--rainy", "SOURCE", "--clean", "SOURCE"], "not --rainy and --clean"),
        (["SOURCE", "--layout", "GT-RAIN", "--list", "x.txt"], "--list: is for pairs and SPA-Data only"),
        (["SOURCE", "--layout", "LHP-Rain", "--paired-val"], "--paired-val: is for trainA/trainB only"),
        (["SOURCE", "--layout", "Outdoor-Rain", "--rainy-name", "{}_r"], "--rainy-name: is for pairs only"),
    ],
)
def test_bad_usage(main, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SOURCE").mkdir()
    assert main(["--output", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_messages_are_one_printable_line(main, tmp_path, capsys):
    folder = tmp_path / "a\n\x1b[31mb"
    assert main([str(folder), "--layout", "GT-RAIN", "--output", str(tmp_path / "out")]) == 2
    assert r"a\n\x1b[31mb" in capsys.readouterr().err


def test_homes_of_nobody_are_not_found(main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["~nobody-of-this-name/x", "--layout", "GT-RAIN", "--output", "out"]) == 2
    assert "not there" in capsys.readouterr().err


@pytest.mark.parametrize("clean", ["r", "r/clean", "link"])
def test_rainy_and_clean_images_of_one_folder_are_refused(main, tmp_path, monkeypatch, capsys, clean):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r" / "clean").mkdir(parents=True)
    (tmp_path / "link").symlink_to("r")
    for rainy, other in (("r", clean), (clean, "r")):
        assert main(["--layout", "two-folders", "--rainy", rainy, "--clean", other, "--output", "out"]) == 2
        assert "one lies in the other" in capsys.readouterr().err


def test_folders_that_may_not_be_entered(main, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed").mkdir()
    (tmp_path / "s").mkdir()
    write_image(tmp_path / "s" / "rain-001.png", np.zeros((4, 4, 3)))
    write_image(tmp_path / "s" / "norain-001.png", np.zeros((4, 4, 3)))
    (tmp_path / "closed").chmod(0)
    if os.access("closed", os.X_OK):
        pytest.skip("this user may enter any folder")
    for source, output in (("closed/s", "out"), ("closed", "out"), ("s", "closed/out"), ("s", "closed")):
        assert main([source, "--layout", "Rain100/200", "--output", output]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_goes_wrong_in_the_output_folder_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written .*Not a directory"), at_work(tmp_path / "file" / "out"):
        pass
    with pytest.raises(InputError, match=r"cannot be written .*No such file"), at_work(tmp_path / "out"):
        (tmp_path / "out" / "a" / "b").touch()


@pytest.mark.parametrize("line", ["one.png", "../a.png ../b.png", "a.png b.png c.png d"])
def test_bad_lists(main, tmp_path, capsys, line):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "list.txt").write_text(f"{line}\n")
    assert main([str(tmp_path / "s"), "--layout", "SPA-Data", "--output", str(tmp_path / "out")]) == 2
    assert "list.txt, line 1" in capsys.readouterr().err
