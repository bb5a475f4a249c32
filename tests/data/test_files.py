"""Files that are whole or not there, and runs in each other's way."""

import errno
import multiprocessing
import os
import signal
import time

import filelock
import pytest

from nlcl_plugin.data.files import parse_record, remove_leftovers, written_whole
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.errors import InputError


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    with written_whole(path) as file:
        file.write(b"old")
        assert not path.exists()

    def fail():
        with written_whole(path) as file:
            file.write(b"new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_kill_while_writing_leaves_the_old_file_and_a_leftover_that_can_be_removed(tmp_path):
    path = tmp_path / "1.state"
    path.write_bytes(b"old")
    if not (writer := os.fork()):
        with written_whole(path) as file:
            file.write(b"new" * 100000)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(writer, 0)
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "mine.tmp").touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["1.state", "mine.tmp"]
    remove_leftovers(tmp_path / "none")


@pytest.mark.parametrize("text", [b"", b"{", b"null", b"[1]", b"\xff", b'{"a": 1}\0'])
def test_what_is_no_record_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        parse_record(text)


@pytest.mark.parametrize("inside", [False, True])
def test_one_run_at_a_time_and_no_trace_of_the_lock(tmp_path, inside):
    folder = tmp_path / "a" / "b"
    for _ in range(2):
        with locked(folder, inside=inside), locked(tmp_path / "a" / "c", inside=inside):
            assert folder.exists() == inside
            with pytest.raises(InputError, match="b: another run is at work"), locked(folder, inside=inside):
                pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["a"] if inside else [])


def test_a_lock_stays_while_the_folder_is_renamed_and_made_anew(tmp_path):
    (tmp_path / "x").mkdir()
    with locked(tmp_path / "x"):
        (tmp_path / "x").rename(tmp_path / "x_archived")
        (tmp_path / "x").mkdir()
        with pytest.raises(InputError, match="another run is at work"), locked(tmp_path / "x"):
            pass
    assert sorted(os.listdir(tmp_path)) == ["x", "x_archived"]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")
def test_a_killed_owner_takes_the_lock_with_it_though_its_loader_workers_live(tmp_path):
    reading, writing = os.pipe()

    def live():
        os.write(writing, str(os.getpid()).encode())
        time.sleep(60)

    if not (owner := os.fork()):
        with locked(tmp_path / "x"):
            multiprocessing.get_context("fork").Process(target=live).start()
            time.sleep(60)
            os._exit(1)
    worker = int(os.read(reading, 20))
    with pytest.raises(InputError, match="another run is at work"), locked(tmp_path / "x"):
        pass
    os.kill(owner, signal.SIGKILL)
    os.waitpid(owner, 0)
    os.kill(worker, 0)  # it lives
    with locked(tmp_path / "x"):
        pass
    os.kill(worker, signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_file_systems_without_locks_are_warned_about_and_unwritable_places_are_one_line(tmp_path, monkeypatch):
    def refuse(code):
        error = OSError(code, os.strerror(code))
        monkeypatch.setattr(filelock.FileLock, "acquire", lambda *_, **__: (_ for _ in ()).throw(error))

    refuse(errno.ENOLCK)
    with pytest.warns(UserWarning, match="x: the file system has no locks"), locked(tmp_path / "x"):
        pass
    refuse(errno.EACCES)
    with pytest.raises(InputError, match=r"x: cannot be written \(Permission denied\)"), locked(tmp_path / "x"):
        pass
