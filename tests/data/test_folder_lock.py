"""Runs in each other's way."""

import errno
import os
from pathlib import Path

import pytest

from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.errors import InputError

fcntl = pytest.importorskip("fcntl")


def test_one_at_a_time(tmp_path):
    folder = tmp_path / "a" / "b"
    with locked(folder):
        with pytest.raises(InputError, match="b: another run is at work in this folder; wait for it"), locked(folder):
            pass
        assert folder.is_dir()
    with locked(folder):
        pass


def test_a_folder_is_removed_if_it_was_made_and_stays_empty(tmp_path):
    with locked(tmp_path / "new"):
        pass
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"):
        pass
    with locked(tmp_path / "used"):
        (tmp_path / "used" / "x").touch()
    assert sorted(os.listdir(tmp_path)) == ["mine", "used"]


def test_the_folder_of_the_next_run_stays(tmp_path):
    with locked(tmp_path / "building"):
        os.rename(tmp_path / "building", tmp_path / "done")
        (tmp_path / "building").mkdir()  # by the next run, which has not got any further
    assert sorted(os.listdir(tmp_path)) == ["building", "done"]


def test_a_run_that_finished_meanwhile_has_taken_the_folder_with_it(tmp_path, monkeypatch):
    real = fcntl.flock

    def finish_first(handle, kind):
        os.rename(tmp_path / "building", tmp_path / "done")
        real(handle, kind)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    with pytest.raises(InputError, match="another run is at work"), locked(tmp_path / "building"):
        pass
    assert os.listdir(tmp_path) == ["done"]


def test_the_folder_may_vanish_before_it_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    with pytest.raises(InputError, match="another run is at work"), locked(tmp_path / "building"):
        pass


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_file_systems_without_locks_of_folders_will_do(tmp_path, monkeypatch, code):
    """NFS answers EBADF, as it wants a file open for writing."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / "x"):
        (tmp_path / "x" / "y").touch()
    assert (tmp_path / "x" / "y").exists()
