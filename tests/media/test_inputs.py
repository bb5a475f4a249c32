import io
import os
from pathlib import Path

import pytest

from nlcl_plugin.errors import InputError, escape
from nlcl_plugin.media.inputs import list_inputs


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Work in a folder with some files."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "in/a.png",
        "in/b/a.JPG",
        "in/b/c/clip.MP4",
        "in/notes.txt",
        "in/.hidden.png",
        "in/.git/x.png",
        "x.jpg",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"x")
    return tmp_path


def pairs(arguments, output="out", **options):
    return [(str(job.source), str(job.output)) for job in list_inputs(arguments, output, **options)]


class TestWhatIsTaken:
    def test_a_folder_keeps_its_tree_and_kinds_go_by_the_ending(self, tree):
        jobs = list_inputs(["in"], "out")
        assert [(str(job.source), str(job.output), job.kind) for job in jobs] == [
            ("in/a.png", "out/a.png", "image"),
            ("in/b/a.JPG", "out/b/a.JPG", "image"),
            ("in/b/c/clip.MP4", "out/b/c/clip.MP4", "video"),
        ]
        assert pairs([tree / "in"], tree / "out")[0] == (str(tree / "in/a.png"), str(tree / "out/a.png"))

    def test_a_file_is_taken_whatever_its_ending_and_once(self, tree):
        assert pairs(["x.jpg", "in/notes.txt", "./x.jpg"]) == [
            ("x.jpg", "out/x.jpg"),
            ("in/notes.txt", "out/notes.txt"),
        ]
        assert pairs(["in", "in/a.png"]) == pairs(["in"])

    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("in/*.png", ["a.png"]),
            ("in/*", ["a.png", "b/a.JPG", "b/c/clip.MP4"]),
            ("in/?/a.*", ["b/a.JPG"]),
            ("in/**/*.JPG", ["b/a.JPG"]),
            ("in/**/a.*", ["a.png", "b/a.JPG"]),
            ("in/**/**/c", ["b/c/clip.MP4"]),
            ("in/**", ["a.png", "b/a.JPG", "b/c/clip.MP4"]),
            ("in/b/[ab].JPG", ["a.JPG"]),
        ],
    )
    def test_patterns_keep_the_tree_below_their_fixed_part(self, tree, pattern, expected):
        for start in ("", "./", str(tree) + "/"):
            assert [output for _, output in pairs([start + pattern])] == ["out/" + name for name in expected]
        assert pairs(["in/**/a.*"])[1][0] == "in/b/a.JPG"

    def test_names_on_standard_input_keep_their_folders(self, tree):
        text = f"in/a.png\r\n\nin/b\n{tree}/x.jpg\n".encode()
        assert pairs(["-"], names=io.BytesIO(text)) == [
            ("in/a.png", "out/in/a.png"),
            ("in/b/a.JPG", "out/in/b/a.JPG"),
            ("in/b/c/clip.MP4", "out/in/b/c/clip.MP4"),
            (f"{tree}/x.jpg", "out/x.jpg"),
        ]
        os.chdir("in")
        assert pairs(["-"], "../out", names=io.BytesIO(b"../x.jpg\n./b/../a.png")) == [
            ("../x.jpg", "../out/x.jpg"),
            ("b/../a.png", "../out/a.png"),
        ]

    @pytest.mark.parametrize("name", [b"line\nbreak.png", "雨 ü.png".encode(), b"\xff\xfe.png", b"-.png", b" .png"])
    def test_names_of_any_bytes(self, tree, name):
        path = b"in/b/c/" + name
        with open(path, "wb"):
            pass
        (job,) = list_inputs(["-"], "out", names=io.BytesIO(path + b"\0"), null=True)
        assert os.fsencode(job.source) == path
        assert os.fsencode(job.output) == b"out/" + path
        assert escape(str(job.source)).isprintable()
        assert os.fsencode(list_inputs(["in/b/c"], "out")[-1].output) in (b"out/" + name, b"out/clip.MP4")


class TestLinksAndTheOutputFolder:
    def test_links_in_circles_end(self, tree):
        os.symlink("..", "in/b/up")
        os.symlink("self", "in/self")
        os.symlink("nowhere", "in/lost.png")
        names = [output for _, output in pairs(["in"])]
        assert names == ["out/a.png", "out/b/a.JPG", "out/b/c/clip.MP4", "out/lost.png"]
        assert [output for _, output in pairs(["in/**/*.png"])] == ["out/a.png", "out/lost.png"]

    @pytest.mark.parametrize("argument", ["in", "in/*", "in/**/*.png", "in/**"])
    def test_an_output_folder_inside_is_not_read_again(self, tree, argument):
        before = [os.path.relpath(output, "in/out") for _, output in pairs([argument], "in/out")]
        Path("in/out/b").mkdir(parents=True)
        for name in ("a.png", "b/a.png"):
            Path("in/out", name).write_bytes(b"x")
        after = [os.path.relpath(output, "in/out") for _, output in pairs([argument], "in/out")]
        assert before == after
        assert "a.png" in after

    def test_a_result_never_replaces_an_input(self, tree):
        with pytest.raises(InputError, match=r"in: is the output folder too; choose another"):
            list_inputs(["in"], tree / "in")
        for arguments in (["in/a.png"], ["in/*"], ["in/b", "in/a.png"]):
            with pytest.raises(InputError, match="its result would replace an input, in/a"):
                list_inputs(arguments, "in")
        os.symlink("in", "alias")
        with pytest.raises(InputError, match="its result would replace an input"):
            list_inputs(["in/a.png"], "alias")

    def test_no_name_leads_out_of_the_output_folder(self, tree):
        os.chdir("in/b")
        for name in (b"../../x.jpg", b"../a.png", b"../b/../a.png", f"{tree}/x.jpg".encode(), b"c/../../../x.jpg"):
            (job,) = list_inputs(["-"], tree / "out", names=io.BytesIO(name))
            assert job.output.parent == tree / "out"
        for name in (b"..", b"../..", b"."):
            assert all(
                job.output.is_relative_to(tree / "out")
                for job in list_inputs(["-"], tree / "out", names=io.BytesIO(name))
            )


class TestWhatIsRefused:
    def test_two_inputs_of_one_name(self, tree):
        Path("more").mkdir()
        Path("more/a.png").write_bytes(b"y")
        with pytest.raises(InputError, match=r"in/a\.png and more/a\.png: would have one output name, a\.png; give"):
            list_inputs(["in", "more"], "out")

    @pytest.mark.parametrize(
        ("argument", "what"),
        [
            ("missing.png", r"missing\.png: no such file or folder"),
            ("*.gif", r"\*\.gif: no image or video matches this pattern"),
            ("nowhere/**/*.png", "no image or video matches"),
            ("empty", "empty: no image or video in this folder or below it; looked for png, jpg"),
        ],
    )
    def test_arguments_that_give_nothing(self, tree, argument, what):
        Path("empty").mkdir()
        with pytest.raises(InputError, match=what):
            list_inputs(["in", argument], "out")
