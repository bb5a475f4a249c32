"""The script of the preparation, as a command."""

import subprocess
import sys

import pytest


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


@pytest.mark.parametrize("line", ["one.png", "../a.png ../b.png", "a.png b.png c.png d"])
def test_bad_lists(main, tmp_path, capsys, line):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "list.txt").write_text(f"{line}\n")
    assert main([str(tmp_path / "s"), "--layout", "SPA-Data", "--output", str(tmp_path / "out")]) == 2
    assert "list.txt, line 1" in capsys.readouterr().err
