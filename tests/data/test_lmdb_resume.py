"""Runs that are killed, repeated or in each other's way."""

import os
import random
import time

import pytest
from lmdb_helpers import contents, create_in_small_batches, noise, some_images, with_opencv, write_files
from prepare_helpers import start

from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.data.lmdb import create as lmdb_create
from nlcl_plugin.data.lmdb.create import create_lmdb as create
from nlcl_plugin.data.lmdb.encode import Cut
from nlcl_plugin.data.lmdb.store import LmdbImages, close_environment
from nlcl_plugin.errors import InputError

PNG, JPEG = (with_opencv(noise((9, 7)), ending) for ending in (".png", ".jpg"))
CUT = ["--crop", "24", "--step", "20"]


@pytest.fixture
def root(tmp_path):
    return write_files(tmp_path / "in", some_images(60, size=(60, 90)))


def test_killed_runs_are_finished_by_the_next(root, tmp_path, capfd):
    """Kill runs at random moments, and see that the next run of each gives what an undisturbed one gives."""
    assert create(root, tmp_path / "whole.lmdb", cut=Cut(24, 20)).skipped  # one image is broken
    whole = contents(tmp_path / "whole.lmdb")
    size = len(whole[1]["keys.jsonl"])
    rng = random.Random(0)
    for number in range(3):
        path = tmp_path / f"killed{number}.lmdb"
        journal = tmp_path / f"killed{number}.lmdb.building" / "keys.jsonl"
        alive, kill = start(create_in_small_batches, ["--input", str(root), *CUT, "--output", str(path)])
        # A time alone would miss the writing on a busy machine: so many bytes, and a moment more.
        wanted = rng.randrange(size)
        while alive() and not (journal.exists() and journal.stat().st_size >= wanted):
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.01))
        kill()
        if path.exists():
            assert contents(path) == whole
        assert create(root, path, cut=Cut(24, 20)).skipped
        assert contents(path) == whole
        assert not journal.parent.exists()
    assert "continued at image" in capfd.readouterr().err


def test_every_step_may_be_the_last(root, tmp_path, monkeypatch):
    """Stop at each write to the disk in turn, as a kill would, and continue: meets every state of the folder."""
    for name in list_images(root)[12:-1]:
        (root / name).unlink()
    monkeypatch.setattr(lmdb_create, "BATCH_IMAGES", 3)
    create(root, tmp_path / "whole.lmdb", cut=Cut(24, 20))
    former = write_files(tmp_path / "former", {"x.png": PNG})
    whole, path, steps = contents(tmp_path / "whole.lmdb"), tmp_path / "x.lmdb", 0
    places = [(os, name) for name in ("fsync", "replace", "rename", "unlink", "remove")] + [(lmdb_create, "_commit")]
    finished = False
    while not finished:
        create(former, path, overwrite=True)
        before, left = contents(path), [steps]

        def stop_or(function, left=left):
            def step(*arguments, **keywords):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return function(*arguments, **keywords)

            return step

        with monkeypatch.context() as patch:
            for place, name in places:
                patch.setattr(place, name, stop_or(getattr(place, name)))
            try:
                create(root, path, cut=Cut(24, 20), overwrite=True)
                finished = True
            except KeyboardInterrupt:
                pass
        if path.exists():  # between two renames, it is not: then the next run puts it back
            assert contents(path) in (before, whole)
        create(root, path, cut=Cut(24, 20), overwrite=True)
        assert contents(path) == whole
        assert sorted(os.listdir(tmp_path)) == ["former", "in", "whole.lmdb", "x.lmdb"]
        steps += 1
    assert steps > 25


def test_torn_journals_are_mended(root, tmp_path, monkeypatch):
    monkeypatch.setattr(lmdb_create, "BATCH_IMAGES", 5)
    path, building = tmp_path / "x.lmdb", tmp_path / "x.lmdb.building"
    create(root, path, cut=Cut(24, 20))
    whole = contents(path)
    lines = whole[1]["keys.jsonl"].splitlines(keepends=True)
    for torn in (b"", b"".join(lines[:7]), b"".join(lines[:100]) + lines[100][:30], b"".join(lines) + b"\0" * 99):
        os.rename(path, building)
        (building / "keys.jsonl").write_bytes(torn)
        (building / "meta_info.txt").unlink()
        create(root, path, cut=Cut(24, 20))
        assert contents(path) == whole


@pytest.mark.parametrize("change", ["setting", "source", "new source"])
def test_another_setting_or_source_begins_anew(root, tmp_path, monkeypatch, capsys, change):
    path = tmp_path / "x.lmdb"
    with monkeypatch.context() as patch:
        patch.setattr(lmdb_create, "_count", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            create(root, path, cut=Cut(30, 30))
    if change != "setting":
        write_files(root, {"a/000.jpg": JPEG} if change == "source" else {"a/0.png": PNG})
    cut = Cut(30, 15) if change == "setting" else Cut(30, 30)
    create(root, path, cut=cut)
    message = f"{path}.building: was begun with other images or settings; it is built anew\n"
    assert capsys.readouterr().err == message
    create(root, tmp_path / "other.lmdb", cut=cut)
    assert contents(path) == contents(tmp_path / "other.lmdb")
    with pytest.raises(InputError, match="give --overwrite to replace it"):
        create(root, path)
    assert not list(tmp_path.glob("*.building"))


def test_a_second_run_is_refused_while_one_is_at_work(root, tmp_path):
    with locked(tmp_path / "x.lmdb.building"):
        with pytest.raises(InputError, match="another run is at work in this folder"):
            create(root, tmp_path / "x.lmdb")
        assert not list(tmp_path.glob("x.lmdb*"))
    create(root, tmp_path / "x.lmdb")


def test_overwriting_keeps_the_old_one_until_the_new_is_whole_and_readers_follow(root, tmp_path):
    path = tmp_path / "x.lmdb"
    create(root, path)
    images = LmdbImages(path)
    before = images.read("a/000")
    broken = write_files(tmp_path / "broken", {"a.png": b"x"})
    with pytest.raises(InputError, match="none of its 1 images"):
        create(broken, path, overwrite=True)
    assert images.read("a/000") == before
    create(write_files(tmp_path / "other", {"a/000.png": PNG}), path, overwrite=True)
    assert images.read("a/000") == PNG
    close_environment(path)
    assert create(tmp_path / "other", path).already_made
