"""Runs that are killed, repeated, or pointed at somebody else's folder: nothing is done twice, nothing is harmed."""

import os
import random
import shutil
import time

import cv2
import pytest
from prepare_helpers import records, scene, start_command, start_tool, tool, tree, write_image, write_pair

from nlcl_plugin.prepare import LayoutOptions, collect, inspect, inspection
from nlcl_plugin.prepare.execute import FACTS, JOURNAL, writing_to

IMAGES = 48


@pytest.fixture
def command(tmp_path):
    for seed in range(12):
        for drop in range(3):
            write_pair(tmp_path / "s" / "in" / f"{seed}_{drop}.png", tmp_path / "s" / "gt" / f"{seed}.png", seed, drop)
    output = ["--output", str(tmp_path / "out")]
    return [str(tmp_path / "s"), "--layout", "Outdoor-Rain", "--copy", "--keep-twins", *output]


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded while reading."""
    seen, real = [], inspection.facts_of

    def facts_of(data, source, modified):
        seen.append(os.path.basename(source.path))
        return real(data, source, modified)

    monkeypatch.setattr(inspection, "facts_of", facts_of)
    return seen


@pytest.mark.parametrize(
    ("start", "kills"), [(start_tool, 3), pytest.param(start_command, 20, marks=pytest.mark.slow)], ids=["fork", "new"]
)
def test_killed_runs_are_finished_by_the_next(command, tmp_path, start, kills):
    """Kill runs at random moments; the next run of each gives what an undisturbed one gives."""
    assert tool().main(command) == 0
    whole = tree(tmp_path / "out")
    rng = random.Random(0)
    unfinished = 0
    for number in range(kills):
        output = tmp_path / f"killed{number}"
        alive, kill = start([*command[:-1], str(output)])
        # A time alone would miss the writing on a busy machine: so many files, and a moment more.
        wanted = rng.randrange(len(whole))
        while alive() and sum(1 for _ in output.rglob("*")) < wanted:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.002))
        kill()
        unfinished += not (output / "manifest.jsonl").exists()
        assert tool().main([*command[:-1], str(output)]) == 0
        assert tree(output) == whole
    assert unfinished


def test_every_step_may_be_the_last(command, tmp_path, monkeypatch):
    """Stop at each rename in turn, as a kill would, and go on: cheap, and meets every state of the folder."""
    assert tool().main(command) == 0
    whole, real, steps = tree(tmp_path / "out"), os.replace, 0
    while True:
        output, left = tmp_path / f"stop{steps}", [steps]

        def replace(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        code = tool().main([*command[:-1], str(output), "--jobs", "1"])
        monkeypatch.setattr(os, "replace", real)
        if code == 0:
            break
        assert code == 5
        assert not (output / "manifest.jsonl").exists()
        assert tool().main([*command[:-1], str(output)]) == 0
        assert tree(output) == whole
        steps += 7
    assert steps > 40


def test_a_run_killed_while_reading_loses_nothing(command, tmp_path, decoded):
    assert tool().main(command) == 0
    whole = tree(tmp_path / "out")
    lines = (tmp_path / "out" / FACTS).read_bytes().splitlines(keepends=True)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    # As a kill leaves it: the last line may be cut short.
    (tmp_path / "out" / FACTS).write_bytes(b"".join(lines[:13]) + lines[13][:20])
    decoded.clear()
    assert tool().main(command) == 0
    assert len(decoded) == IMAGES - 12
    assert tree(tmp_path / "out") == whole


def test_a_finished_run_is_kept_and_mended(command, tmp_path, capsys, decoded):
    output = tmp_path / "out"
    assert tool().main(command) == 0
    assert len(decoded) == IMAGES
    before = tree(output)
    times = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    first, second, *_ = sorted(times)
    first.unlink()
    second.write_bytes(b"broken")
    (output / "rainy" / "0_0.png.6.tmp").write_bytes(b"half")
    decoded.clear()
    assert tool().main([*command, "--dry-run"]) == 0
    assert tool().main(command) == 0
    assert decoded == []
    assert "2 written" in capsys.readouterr().out
    assert tree(output) == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path not in (first, second))


@pytest.mark.parametrize("change", ["time", "size"])
def test_only_what_changed_is_read_again(command, tmp_path, decoded, change):
    assert tool().main([*command, "--leakage-bits", "128"]) == 2  # read, and refused by the plan
    decoded.clear()
    path = tmp_path / "s" / "in" / "3_1.png"
    status = path.stat()
    if change == "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        path.write_bytes(path.read_bytes() + b"\0")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert tool().main(command) == 0
    assert decoded == ["3_1.png"]


def test_facts_of_another_version_or_damaged_ones_do_not_count(command, tmp_path, decoded):
    assert tool().main([*command, "--leakage-bits", "128"]) == 2
    text = (tmp_path / "out" / FACTS).read_text()
    for damaged in (text.replace(cv2.__version__, "0.0.0"), "", "\n\n", '{"facts": 1}', text.replace("dhash", "hash")):
        (tmp_path / "out" / FACTS).write_text(damaged)
        decoded.clear()
        assert tool().main([*command, "--leakage-bits", "128"]) == 2
        assert len(decoded) == IMAGES
        assert (tmp_path / "out" / FACTS).read_text() == text


@pytest.mark.parametrize("count", [15, pytest.param(600, marks=pytest.mark.slow)])
def test_damaged_files_of_the_output_are_mended_or_refused_and_nothing_else_changes(command, tmp_path, capsys, count):
    output, rng, outcomes = tmp_path / "out", random.Random(0), set()
    assert tool().main(command) == 0
    output.rename(tmp_path / "whole")
    whole, source = tree(tmp_path / "whole"), tree(tmp_path / "s")
    for _ in range(count):
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", output)
        path = rng.choice([output / "manifest.jsonl", output / FACTS, *sorted(output.glob("*/*"))[:4]])
        data = path.read_bytes()
        at = rng.randrange(len(data))
        path.write_bytes(
            rng.choice([data[:at], data[:at] + data[at + 9 :], data[:at] + rng.randbytes(4) + data[at:], b""])
        )
        if rng.random() < 0.3:
            (output / "manifest.jsonl").rename(output / JOURNAL)
        outcomes.add(code := tool().main(command))
        error = capsys.readouterr().err
        assert (code, error) == (0, "") or (code == 2 and error.startswith("error: ") and error[:-1].isprintable())
        assert code == 2 or path.name == FACTS or tree(output) == whole
        assert tree(tmp_path / "s") == source
    assert outcomes == {0, 2}


def test_failures_and_frames_of_other_windows_are_read_again(tmp_path, decoded):
    write_image(tmp_path / "c" / "c.png", scene(20))
    (tmp_path / "r").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "r" / "walk.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (56, 40))
    for number in range(12):
        writer.write(scene(number))
    writer.release()
    (tmp_path / "r" / "bad.png").write_bytes(b"none")
    collection = collect("two-folders", [], LayoutOptions(rainy=str(tmp_path / "r"), clean=str(tmp_path / "c")))
    runs = []
    for every in (4, 4, 3):
        decoded.clear()
        runs.append((inspect(collection, every=every, record=tmp_path / FACTS), len(decoded)))
    assert [count for _, count in runs] == [5, 1, 5]
    assert runs[0][0] == runs[1][0]
    assert [len(facts) for (_, facts, _), _ in runs] == [4, 4, 5]


def test_a_source_that_changes_while_it_is_read_is_not_linked(command, capsys, monkeypatch):
    real = inspection.output_bytes

    def output_bytes(source):
        data = real(source)
        if source.name == "in/0_0.png":
            os.utime(source.path, ns=(10**18, 10**18))
        return data

    monkeypatch.setattr(inspection, "output_bytes", output_bytes)
    command.remove("--copy")
    assert tool().main(command) == 2
    assert "0_0.png: changed while it was being prepared" in capsys.readouterr().err


def test_links_and_copies_give_the_same_tree(command, tmp_path):
    assert tool().main(command) == 0
    command.remove("--copy")
    assert tool().main([*command[:-1], str(tmp_path / "links")]) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "links")
    line = records(tmp_path / "links")[0]
    source = tmp_path / "s" / line["source"]
    assert os.path.samefile(tmp_path / "links" / line["path"], source)
    assert not os.path.samefile(tmp_path / "out" / line["path"], source)


@pytest.mark.parametrize("name", ["notes.txt", "rainy/0_0.png"])
def test_foreign_files_stop_the_run_before_anything_is_read_or_touched(command, tmp_path, capsys, decoded, name):
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    before = tree(tmp_path / "out")
    assert tool().main(command) == 2
    assert name.split("/")[0] in capsys.readouterr().err
    assert decoded == []
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("finished", [False, True])
def test_another_preparation_is_not_touched(command, tmp_path, capsys, finished):
    assert tool().main(command) == 0
    if not finished:
        (tmp_path / "out" / "manifest.jsonl").rename(tmp_path / "out" / JOURNAL)
    before = tree(tmp_path / "out")
    write_pair(tmp_path / "s" / "in" / "90_0.png", tmp_path / "s" / "gt" / "90.png", 90)
    assert tool().main([*command, "--seed", "1"]) == 2
    assert "another preparation" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_a_link_in_the_place_of_an_output_folder_is_refused(command, tmp_path, capsys):
    command.remove("--copy")
    assert tool().main(command) == 0
    shutil.rmtree(tmp_path / "out" / "rainy")
    (tmp_path / "out" / "rainy").symlink_to(tmp_path / "s" / "in")
    before = tree(tmp_path)
    assert tool().main([*command, "--copy"]) == 2
    assert "not of this preparation (rainy)" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_a_dry_run_changes_nothing(command, tmp_path, capsys):
    assert tool().main([*command, "--dry-run"]) == 0
    assert "rainy: 33 images of 11 scenes" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_two_runs_do_not_write_to_one_folder(command, tmp_path, capsys):
    pytest.importorskip("fcntl")
    with writing_to(tmp_path / "out"):
        assert tool().main(command) == 2
    assert "another run is at work" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
