"""Runs that are killed, repeated, or pointed at somebody else's folder: nothing is done twice, nothing is harmed."""

import errno
import os

import pytest
from prepare_helpers import main, records, tree, write_pair

from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.prepare import inspection
from nlcl_plugin.prepare.execute import UNFINISHED


@pytest.fixture
def command(tmp_path):
    for seed in range(8):
        for drop in range(2):
            write_pair(tmp_path / "s" / "in" / f"{seed}_{drop}.png", tmp_path / "s" / "gt" / f"{seed}.png", seed, drop)
    output = ["--output", str(tmp_path / "out")]
    return [str(tmp_path / "s"), "--layout", "Outdoor-Rain", "--copy", "--keep-twins", *output]


def test_every_step_may_be_the_last(command, tmp_path, monkeypatch):
    """Stop at each rename in turn, as a kill would, and go on: cheap, and meets every state of the folder."""
    assert main(command) == 0
    whole, real, steps = tree(tmp_path / "out"), os.replace, 0
    while True:
        output, left = tmp_path / f"stop{steps}", [steps]

        def replace(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        code = main([*command[:-1], str(output), "--jobs", "1"])
        monkeypatch.setattr(os, "replace", real)
        if code == 0:
            break
        assert code == 5
        assert not (output / "manifest.jsonl").exists()
        assert main([*command[:-1], str(output)]) == 0
        assert tree(output) == whole
        steps += 5
    assert steps > 20


def test_a_source_that_changes_while_it_is_read_is_not_linked(command, capsys, monkeypatch):
    real = inspection.output_bytes

    def output_bytes(source):
        data = real(source)
        if source.name == "in/0_0.png":
            os.utime(source.path, ns=(10**18, 10**18))
        return data

    monkeypatch.setattr(inspection, "output_bytes", output_bytes)
    command.remove("--copy")
    assert main(command) == 2
    assert "0_0.png: changed while it was being prepared" in capsys.readouterr().err


def test_links_and_copies_give_the_same_tree_and_files_that_are_there_are_kept(command, tmp_path, capsys):
    output, links = tmp_path / "out", tmp_path / "links"
    assert main(command) == 0
    assert main([*(word for word in command[:-1] if word != "--copy"), str(links)]) == 0
    assert tree(output) == tree(links)
    line = records(links)[0]
    assert os.path.samefile(links / line["path"], tmp_path / "s" / line["source"])
    assert not os.path.samefile(output / line["path"], tmp_path / "s" / line["source"])
    first, *others = sorted(output.glob("*/*"))
    times = {path: path.stat().st_mtime_ns for path in others}
    first.unlink()
    (output / "rainy" / "0_0.png.6.tmp").write_bytes(b"half")
    assert main([*command, "--dry-run"]) == 0
    assert not first.exists()
    capsys.readouterr()
    assert main(command) == 0
    assert "1 written" in capsys.readouterr().out
    assert tree(output) == tree(links)
    assert {path: path.stat().st_mtime_ns for path in others} == times
    assert main([*command[:-1], str(links)]) == 0  # with --copy, links become copies
    assert not os.path.samefile(links / line["path"], tmp_path / "s" / line["source"])


@pytest.mark.parametrize("case", ["notes.txt", "rainy/0_0.png", "finished", "unfinished", "another run"])
def test_a_folder_of_others_is_not_touched(command, tmp_path, capsys, case):
    output, words = tmp_path / "out", "not of this preparation"
    if case.endswith("finished"):
        words = "another preparation"
        assert main([*command, "--seed", "1"]) == 0
        if case == "unfinished":
            (output / "manifest.jsonl").rename(output / UNFINISHED)
    elif case == "another run":
        pytest.importorskip("fcntl")
        words = "another run is at work"
        with locked(output, inside=True):
            assert main(command) == 2
    else:
        (output / case).parent.mkdir(parents=True)
        (output / case).write_text("mine")
    before = tree(tmp_path)
    if case != "another run":
        assert main(command) == 2
    assert words in capsys.readouterr().err
    assert tree(tmp_path) == before
    assert case != "another run" or not output.exists()


def test_a_link_that_fails_becomes_a_copy(command, tmp_path, capsys, monkeypatch):
    def link(source, target, **options):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    command.remove("--copy")
    assert main(command) == 0
    assert "0 linked" in capsys.readouterr().out
    for line in records(tmp_path / "out"):
        path = tmp_path / "out" / line["path"]
        assert path.stat().st_nlink == 1
        assert path.read_bytes() == (tmp_path / "s" / line["source"]).read_bytes()
