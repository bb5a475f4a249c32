"""The script of the preparation, as a command."""

import prepare_rain_dataset
import pytest

BY_REGEX = ["--pair-by", "regex", "--rainy", "PAIR", "--clean", "PAIR", "--rainy-regex"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SOURCE"], "pairs, static-video) or --pair-by"),
        (["MISSING", "--layout", "GT-RAIN"], "error: MISSING: no such file or folder"),
        (["SOURCE", "--layout", "GT-RAIN", "--pair-by", "stem"], "remove one"),
        (["--layout", "two-folders", "--rainy", "SOURCE", "--clean", "SOURCE/clean"], "one lies in the other"),
        (["SOURCE", "--layout", "GT-RAIN", "--output", "SOURCE/out"], "overlaps"),
        (["PAIR", "--layout", "GT-RAIN", "--output", "FILE"], "FILE: is not a usable folder"),
        (["SOURCE", "--layout", "GT-RAIN", "--list", "x.txt"], "--list: is for pairs and SPA-Data only"),
        (["SOURCE", "--layout", "SPA-Data", "--list", "LIST"], "LIST, line 2: got 'a b c'"),
        ([*BY_REGEX, "("], "'(': is no regular expression"),
        ([*BY_REGEX, "a"], "'a': has no group"),
        (["PAIR", "--layout", "GT-RAIN", "--scene", "x"], "--scene: 'x' finds nothing"),
    ],
)
def test_bad_usage(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "SOURCE" / "clean").mkdir(parents=True)
    (tmp_path / "FILE").touch()
    (tmp_path / "PAIR").mkdir()
    for name in ("R", "C"):
        (tmp_path / "PAIR" / f"a-{name}-000.png").touch()
    (tmp_path / "LIST").write_text("a b\na b c\n")
    assert prepare_rain_dataset.main(["--output", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()
