import hashlib
import os
import signal
import subprocess
import sys

import pytest

from nlcl_plugin.data.files import remove_leftovers, sha256, written_whole


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail():
        with written_whole(path) as file:
            file.write(b"new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_kill_while_writing_leaves_the_old_file_and_a_leftover_that_can_be_removed(tmp_path):
    path = tmp_path / "1.state"
    path.write_bytes(b"old")
    code = (
        "import os, signal\n"
        "from nlcl_plugin.data.files import written_whole\n"
        f"with written_whole({str(path)!r}) as file:\n"
        "    file.write(b'new' * 100000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(os.listdir(tmp_path)) == 2
    (tmp_path / "mine.tmp").touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["1.state", "mine.tmp"]


def test_leftovers_of_a_missing_folder_are_none(tmp_path):
    remove_leftovers(tmp_path / "none")


def test_the_new_content_takes_the_place_of_the_old(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with written_whole(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_hash_is_that_of_the_whole_file(tmp_path):
    content = os.urandom((1 << 20) + 1)
    (tmp_path / "file").write_bytes(content)
    assert sha256(tmp_path / "file") == hashlib.sha256(content).hexdigest()
