import io
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from nlcl_plugin.errors import InputError
from nlcl_plugin.media.inputs import list_inputs


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Work in a folder with some files."""
    monkeypatch.chdir(tmp_path)
    names = ("in/a.png", "in/b/a.JPG", "in/b/c/clip.MP4", "in/notes.txt", "in/.hidden.png", "in/.git/x.png", "x.jpg")
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    return tmp_path


def pairs(arguments, output="out", **options):
    return [(str(job.source), str(job.output)) for job in list_inputs(arguments, output, **options)]


@pytest.fixture
def by_stdin(monkeypatch):
    """Jobs of names on standard input."""

    def jobs(text, output="out", **options):
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        return list_inputs(["-"], output, **options)

    return jobs


def test_a_folder_keeps_its_tree_and_kinds_go_by_the_ending(tree):
    jobs = list_inputs(["in"], "out")
    assert [(str(job.source), str(job.output), job.kind) for job in jobs] == [
        ("in/a.png", "out/a.png", "image"),
        ("in/b/a.JPG", "out/b/a.JPG", "image"),
        ("in/b/c/clip.MP4", "out/b/c/clip.MP4", "video"),
    ]
    assert pairs([tree / "in"], tree / "out")[0] == (str(tree / "in/a.png"), str(tree / "out/a.png"))


def test_a_file_is_taken_whatever_its_ending_and_once(tree):
    files = [("x.jpg", "out/x.jpg"), ("in/notes.txt", "out/notes.txt")]
    assert pairs(["x.jpg", "in/notes.txt", "./x.jpg"]) == files
    assert pairs(["in", "in/a.png"]) == pairs(["in"])


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.png", ["a.png"]),
        ("in/*", ["a.png", "b/a.JPG", "b/c/clip.MP4"]),
        ("in/?/a.*", ["b/a.JPG"]),
        ("in/**/a.*", ["a.png", "b/a.JPG"]),
        ("in/**/**/c", ["b/c/clip.MP4"]),
        ("in/**", ["a.png", "b/a.JPG", "b/c/clip.MP4"]),
        ("in/b/[ab].JPG", ["a.JPG"]),
    ],
)
def test_patterns_keep_the_tree_below_their_fixed_part(tree, pattern, expected):
    for start in ("", "./", str(tree) + "/"):
        assert [output for _, output in pairs([start + pattern])] == ["out/" + name for name in expected]


def test_names_on_standard_input_keep_their_folders(tree, by_stdin):
    jobs = by_stdin(f"in/a.png\r\n\nin/b\n{tree}/x.jpg\n".encode())
    assert [str(job.output) for job in jobs] == ["out/in/a.png", "out/in/b/a.JPG", "out/in/b/c/clip.MP4", "out/x.jpg"]
    for name in (b"line\nbreak.png", "雨 ü.png".encode(), b"\xff\xfe.png"):
        path = b"in/b/c/" + name
        with open(path, "wb"):
            pass
        (job,) = by_stdin(path + b"\0", null=True)
        assert (os.fsencode(job.source), os.fsencode(job.output)) == (path, b"out/" + path)


def test_no_name_leads_out_of_the_output_folder(tree, by_stdin):
    os.chdir("in/b")
    for name in (b"../../x.jpg", b"../a.png", b"../b/../a.png", f"{tree}/x.jpg".encode(), b"..", b"../..", b"."):
        for job in by_stdin(name, tree / "out"):
            assert job.output.is_relative_to(tree / "out")


def test_links_in_circles_end(tree):
    os.symlink("..", "in/b/up")
    os.symlink("self", "in/self")
    os.symlink("nowhere", "in/lost.png")
    names = [output for _, output in pairs(["in"])]
    assert names == ["out/a.png", "out/b/a.JPG", "out/b/c/clip.MP4", "out/lost.png"]


@pytest.mark.parametrize("argument", ["in", "in/*", "in/**/*.png"])
def test_an_output_folder_inside_is_not_read_again(tree, argument):
    before = pairs([argument], "in/out")
    Path("in/out/b").mkdir(parents=True)
    for name in ("a.png", "b/a.png"):
        Path("in/out", name).write_bytes(b"x")
    assert pairs([argument], "in/out") == before


def test_a_result_never_replaces_an_input(tree):
    os.symlink("in", "alias")
    for arguments in (["in"], ["in/a.png"], ["in/*"], ["in/b", "in/a.png"]):
        for output in ("in", "alias"):
            with pytest.raises(InputError, match="its result would replace an input"):
                list_inputs(arguments, output)


def test_inputs_of_one_name_and_arguments_that_give_nothing_are_refused(tree):
    Path("more").mkdir()
    Path("more/a.png").write_bytes(b"y")
    Path("empty").mkdir()
    for argument, what in (
        ("more", r"in/a\.png and more/a\.png: would have one output name, a\.png; give"),
        ("missing.png", r"missing\.png: no such file or folder"),
        ("*.gif", r"\*\.gif: no image or video matches this pattern"),
        ("nowhere/**/*.png", "no image or video matches"),
        ("empty", "empty: no image or video in this folder or below it; expected png, jpg"),
    ):
        with pytest.raises(InputError, match=what):
            list_inputs(["in", argument], "out")
