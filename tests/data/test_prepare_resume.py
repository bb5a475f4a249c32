"""Runs that are killed, repeated, or pointed at a folder of somebody else."""

import os
import random
import time

import pytest
from prepare_helpers import names, records, scene, start_command, start_tool, tool, tree, write_image, write_pair


@pytest.fixture
def command(tmp_path):
    for seed in range(20):
        for drop in range(3):
            write_pair(tmp_path / "s" / "in" / f"{seed}_{drop}.png", tmp_path / "s" / "gt" / f"{seed}.png", seed, drop)
    return [str(tmp_path / "s"), "--layout", "Outdoor-Rain", "--copy", "--keep-twins"]


def test_killed_runs_are_finished_by_the_next(command, tmp_path):
    kill_and_finish(command, tmp_path, start_tool, kills=3)


@pytest.mark.slow
def test_killed_commands_are_finished_by_the_next(command, tmp_path):
    kill_and_finish(command, tmp_path, start_command, kills=20)


def kill_and_finish(command, tmp_path, start, kills):
    """Kill runs at random moments, and see that the next run of each gives what an undisturbed one gives."""
    assert tool().main([*command, "--output", str(tmp_path / "whole")]) == 0
    whole = tree(tmp_path / "whole")
    rng = random.Random(0)
    unfinished = 0
    for number in range(kills):
        output = tmp_path / f"killed{number}"
        alive, kill = start([*command, "--output", str(output)])
        # A time alone would miss the writing on a busy machine: so many files, and a moment more.
        wanted = rng.randrange(len(whole))
        while alive() and sum(1 for _ in output.rglob("*")) < wanted:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.002))
        kill()
        unfinished += not (output / "manifest.jsonl").exists()
        assert tool().main([*command, "--output", str(output)]) == 0
        assert tree(output) == whole
    assert unfinished


def test_what_a_kill_left_half_written_is_removed(command, tmp_path, capsys):
    output = tmp_path / "out"
    command = [*command, "--output", str(output)]
    output.mkdir()
    (output / ".facts.jsonl.12.tmp").write_bytes(b"half")
    (output / ".manifest.jsonl.part.345.tmp").write_bytes(b"half")
    assert tool().main(command) == 0
    before = tree(output)
    (output / "rainy" / "0_0.png.6.tmp").write_bytes(b"half")
    assert tool().main(command) == 0
    assert tree(output) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.1.tmp").touch()
    assert tool().main([*command, "--output", str(tmp_path / "mine")]) == 2
    assert "notes.1.tmp" in capsys.readouterr().err
    assert names(tmp_path, "mine") == ["notes.1.tmp"]


def test_every_step_may_be_the_last(command, tmp_path, monkeypatch):
    """Stop at each rename in turn, as a kill would, and go on: cheap, and meets every state of the folder."""
    assert tool().main([*command, "--output", str(tmp_path / "whole")]) == 0
    whole, real, steps = tree(tmp_path / "whole"), os.replace, 0
    while True:
        output, left = tmp_path / f"stop{steps}", [steps]

        def replace(source, target, left=left):
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            real(source, target)

        monkeypatch.setattr(os, "replace", replace)
        code = tool().main([*command, "--output", str(output), "--jobs", "1"])
        monkeypatch.setattr(os, "replace", real)
        if code == 0:
            break
        assert code == 5
        assert not (output / "manifest.jsonl").exists()
        if steps % 9 == 0:
            assert tool().main([*command, "--output", str(output)]) == 0
            assert tree(output) == whole
        steps += 9
    assert steps > 50


def test_a_finished_run_is_kept_and_mended(command, tmp_path, capsys):
    output = tmp_path / "out"
    command = [*command, "--output", str(output)]
    assert tool().main(command) == 0
    before = tree(output)
    times = {path: path.stat().st_mtime_ns for path in output.glob("*/*")}
    first, second, *_ = sorted(times)
    first.unlink()
    second.write_bytes(b"broken")
    assert tool().main(command) == 0
    assert "2 written" in capsys.readouterr().out
    assert tree(output) == before
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path not in (first, second))


def test_links_and_copies_give_the_same_tree(command, tmp_path):
    assert tool().main([*command, "--output", str(tmp_path / "copies")]) == 0
    command.remove("--copy")
    assert tool().main([*command, "--output", str(tmp_path / "links")]) == 0
    assert tree(tmp_path / "copies") == tree(tmp_path / "links")
    line = records(tmp_path / "links")[0]
    source = tmp_path / "s" / line["source"]
    assert os.path.samefile(tmp_path / "links" / line["path"], source)
    assert not os.path.samefile(tmp_path / "copies" / line["path"], source)


@pytest.mark.parametrize("name", ["notes.txt", "rainy/other.png", "rainy/sub/x.png"])
@pytest.mark.parametrize("finished", [False, True])
def test_foreign_files_stop_the_run_and_nothing_is_touched(command, tmp_path, capsys, name, finished):
    output = tmp_path / "out"
    command = [*command, "--output", str(output)]
    if finished:
        assert tool().main(command) == 0
    write_image(output / "rainy" / "0_0.png", scene(5)) if not finished else None
    (output / name).parent.mkdir(parents=True, exist_ok=True)
    (output / name).write_text("mine")
    before = tree(output)
    assert tool().main(command) == 2
    assert name.removesuffix("/x.png") in capsys.readouterr().err
    assert tree(output) == before


def test_another_preparation_is_not_overwritten(command, tmp_path, capsys):
    command = [*command, "--output", str(tmp_path / "out")]
    assert tool().main(command) == 0
    before = tree(tmp_path / "out")
    assert tool().main([*command, "--seed", "1"]) == 2
    assert "another preparation" in capsys.readouterr().err
    assert tree(tmp_path / "out") == before


def test_a_dry_run_changes_nothing(command, tmp_path, capsys):
    assert tool().main([*command, "--output", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "rainy: 54 images of 18 scenes" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
