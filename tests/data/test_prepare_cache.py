"""What was read is not read again: after a kill, after a finished run, and only while the source is unchanged."""

import json
import os
import shutil
import time

import cv2
import numpy as np
import pytest
from prepare_helpers import scene, start_tool, tool, tree, write_image, write_pair

from nlcl_plugin.data.prepare import Choices, collect, inspect, inspection
from nlcl_plugin.data.prepare.output_folder import at_work

FACTS = ".facts.jsonl"


@pytest.fixture
def command(tmp_path):
    for seed in range(12):
        for drop in range(3):
            write_pair(tmp_path / "s" / "in" / f"{seed}_{drop}.png", tmp_path / "s" / "gt" / f"{seed}.png", seed, drop)
    return [str(tmp_path / "s"), "--layout", "Outdoor-Rain", "--copy", "--output", str(tmp_path / "out")]


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that were decoded while reading."""
    seen, real = [], inspection.facts_of

    def facts_of(data, source, modified):
        seen.append(os.path.basename(source.path))
        return real(data, source, modified)

    monkeypatch.setattr(inspection, "facts_of", facts_of)
    return seen


def test_a_repeated_run_decodes_nothing(command, tmp_path, decoded):
    assert tool().main(command) == 0
    assert len(decoded) == 48  # those too that the plan leaves out
    before = tree(tmp_path / "out")
    decoded.clear()
    assert tool().main(command) == 0
    assert tool().main([*command, "--dry-run"]) == 0
    assert decoded == []
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["time", "size"])
def test_only_what_changed_is_read_again(command, tmp_path, decoded, change):
    assert tool().main([*command, "--strict", "--leakage-bits", "128"]) == 2  # read, and refused by the plan
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


def test_a_run_killed_while_reading_loses_nothing(command, tmp_path, decoded):
    whole = [*command[:-1], str(tmp_path / "whole")]
    assert tool().main(whole) == 0
    cache = tmp_path / "out" / FACTS
    alive, kill = start_tool([*command, "--jobs", "1"])
    while alive() and (not cache.exists() or cache.read_bytes().count(b"\n") < 12):
        time.sleep(0.0005)
    kill()
    kept = len([line for line in cache.read_text().split("\n")[1:-1] if json.loads(line[9:])])
    assert kept >= 11
    with cache.open("ab") as file:
        file.write(b'{"key": ["/cut sho')  # the kill may have come in the middle of a line
    decoded.clear()
    assert tool().main(command) == 0
    assert len(decoded) == 48 - kept
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_facts_of_another_opencv_or_broken_ones_do_not_count(command, tmp_path, decoded):
    assert tool().main([*command, "--leakage-bits", "128"]) == 2
    cache = tmp_path / "out" / FACTS
    text = cache.read_text()
    for broken in (text.replace(cv2.__version__, "0.0.0"), "", "\n\n", '{"facts": 1}', "[]\n" + text, text[:90]):
        cache.write_text(broken)
        decoded.clear()
        assert tool().main([*command, "--leakage-bits", "128"]) == 2
        assert len(decoded) == 48
        assert cache.read_text() == text


def test_a_dry_run_leaves_what_was_read_as_it_is(command, tmp_path, decoded):
    assert tool().main([*command, "--leakage-bits", "128"]) == 2
    cache = tmp_path / "out" / FACTS
    lines = cache.read_text().split("\n")
    cache.write_text("\n".join(lines[:20]))
    before = tree(tmp_path)
    decoded.clear()
    assert tool().main([*command, "--dry-run"]) == 0
    assert len(decoded) == 48 - 19
    assert tree(tmp_path) == before


def test_the_facts_of_another_preparation_are_not_touched(command, tmp_path):
    assert tool().main(command) == 0
    before = tree(tmp_path / "out")
    shutil.copytree(tmp_path / "s", tmp_path / "other")
    write_pair(tmp_path / "other" / "in" / "90_0.png", tmp_path / "other" / "gt" / "90.png", 90)
    assert tool().main([str(tmp_path / "other"), *command[1:]]) == 2
    assert tree(tmp_path / "out") == before


def test_a_failure_is_not_kept(tmp_path):
    write_image(tmp_path / "c" / "c.png", scene(0))
    write_image(tmp_path / "good.png", scene(1))
    good = (tmp_path / "good.png").read_bytes()
    rainy = tmp_path / "r" / "r.png"
    rainy.parent.mkdir()
    found = []
    for content in (b"\0" * len(good), good):  # of one size and time
        rainy.write_bytes(content)
        os.utime(rainy, ns=(10**18, 10**18))
        collection = collect("two-folders", [], Choices(rainy=str(tmp_path / "r"), clean=str(tmp_path / "c")))
        found.append(inspect(collection, cache=tmp_path / FACTS))
    assert [len(unreadable) for _, _, unreadable in found] == [1, 0]
    assert len(found[1][1]) == 2


def test_chosen_frames_are_known_for_the_same_choice_only(tmp_path, decoded):
    video = tmp_path / "r" / "walk.avi"
    video.parent.mkdir()
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 10, (56, 40))
    for number in range(12):
        writer.write(scene(number))
    writer.release()
    write_image(tmp_path / "c" / "c.png", scene(20))
    collection = collect("two-folders", [], Choices(rainy=str(tmp_path / "r"), clean=str(tmp_path / "c")))
    runs = []
    for every in (4, 4, 3):
        decoded.clear()
        runs.append((inspect(collection, every=every, cache=tmp_path / FACTS), len(decoded)))
    assert [count for _, count in runs] == [4, 0, 4]
    assert runs[0][0] == runs[1][0]
    assert len(runs[2][0][1]) == 5


def test_a_source_that_changes_while_it_is_read_is_not_linked(command, tmp_path, capsys, monkeypatch):
    real = inspection.produce

    def produce(source):
        data = real(source)
        if source.name == "in/0_0.png":
            changed = scene(77)
            with open(source.path, "r+b") as file:
                file.write(cv2.imencode(".png", changed)[1].tobytes()[: len(data)].ljust(len(data), b"\0"))
            os.utime(source.path, ns=(10**18, 10**18))
        return data

    monkeypatch.setattr(inspection, "produce", produce)
    command.remove("--copy")
    assert tool().main([*command, "--keep-twins"]) == 2
    assert "0_0.png: changed while it was being prepared" in capsys.readouterr().err


def test_foreign_files_are_found_before_anything_is_read(command, tmp_path, capsys, decoded):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert tool().main(command) == 2
    assert "notes.txt" in capsys.readouterr().err
    assert decoded == []


def test_two_runs_do_not_work_in_one_folder(command, tmp_path, capsys):
    pytest.importorskip("fcntl")
    with at_work(tmp_path / "out"):
        assert tool().main(command) == 2
    assert "another run is at work" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_facts_survive_the_file(tmp_path):
    for seed in range(3):
        write_image(tmp_path / "r" / f"{seed} \udcff 雨.png", scene(seed))
    write_image(tmp_path / "c" / "flat.png", np.full((20, 20, 3), 90, np.uint8))  # without a perceptual hash
    collection = collect("two-folders", [], Choices(rainy=str(tmp_path / "r"), clean=str(tmp_path / "c")))
    first = inspect(collection, cache=tmp_path / FACTS)
    assert inspect(collection, cache=tmp_path / FACTS) == first == inspect(collection)
