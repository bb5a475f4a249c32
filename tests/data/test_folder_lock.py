"""Runs in each other's way."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import filelock
import pytest

from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.errors import InputError


@pytest.mark.parametrize("inside", [False, True])
def test_one_at_a_time_and_no_trace_of_it(tmp_path, inside):
    folder = tmp_path / "a" / "b"
    with locked(folder, inside=inside):
        assert folder.exists() == inside
        with (
            pytest.raises(InputError, match="b: another run is at work in this folder; wait for it, or choose another"),
            locked(folder, inside=inside),
        ):
            pass
        with locked(tmp_path / "a" / "c", inside=inside):
            pass
    with locked(folder, inside=inside):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["a"] if inside else [])


def test_it_holds_while_the_folder_is_renamed_and_made_anew(tmp_path):
    (tmp_path / "x").mkdir()
    with locked(tmp_path / "x"):
        (tmp_path / "x").rename(tmp_path / "x_archived")
        (tmp_path / "x").mkdir()
        with pytest.raises(InputError, match="another run is at work"), locked(tmp_path / "x"):
            pass
    assert sorted(os.listdir(tmp_path)) == ["x", "x_archived"]


OWNER = """
import multiprocessing, sys, time
from nlcl_plugin.data.folder_lock import locked
with locked(sys.argv[1]):
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="forks")
def test_a_killed_owner_takes_the_lock_with_it_though_its_loader_workers_live(tmp_path):
    with subprocess.Popen([sys.executable, "-c", OWNER, tmp_path / "x"], stdout=subprocess.PIPE, text=True) as owner:
        child = int(owner.stdout.readline())
        with pytest.raises(InputError, match="another run is at work"), locked(tmp_path / "x"):
            pass
        owner.send_signal(signal.SIGKILL)
        time.sleep(0.5)
        os.kill(child, 0)  # it lives
        with locked(tmp_path / "x"):
            pass
        os.kill(child, signal.SIGKILL)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_are_warned_about(tmp_path, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.warns(UserWarning, match="x: the file system has no locks"),
        locked(tmp_path / "x"),
    ):
        (tmp_path / "x").mkdir()
    assert os.listdir(tmp_path) == ["x"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(InputError, match=r"x: cannot be written \(Permission denied\)"), locked(tmp_path / "x"):
        pass
