"""A disk that is full or read-only: an error in one line, and nothing lost.

The disks are small ones in memory (tmpfs), which only root may mount; elsewhere these tests are skipped.
"""

import contextlib
import importlib
import io
import os
import subprocess

import cv2
import pytest
import torch
from conftest import photograph
from derain_helpers import save_network
from training_helpers import make_folders, tiny_options, write_options
from training_helpers import run as train

from nlcl_plugin.archs import ResidualUNet


@pytest.fixture
def disk(tmp_path):
    """A disk of 64 MB; `resize` changes that, also when it is in use."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def remount(disk, options):
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def leave(disk, free):
    """Let so many bytes be free."""
    status = os.statvfs(disk)
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    remount(disk, f"size={used + free}")


def run(name, *arguments):
    """Run a tool in this process, which takes less time."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = importlib.import_module(name).main([str(argument) for argument in arguments])
    assert "Traceback" not in out.getvalue() + err.getvalue()
    return subprocess.CompletedProcess(name, code, out.getvalue(), err.getvalue())


def error_of(done):
    """The one line that tells of the error."""
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.splitlines()[-1] == line
    return line


def leftovers(folder):
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".part"))]


@pytest.fixture
def weights(tmp_path):
    save_network(tmp_path / "net_s.pth", ResidualUNet(num_feat=4))
    return tmp_path / "net_s.pth"


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / f"a{number}.png"), photograph(150, 200, seed=number))
    return folder


# derain ---------------------------------------------------------------------------------------------------------------
def test_images_that_do_not_fit_are_listed_and_the_next_run_makes_them(disk, weights, images):
    out = disk / "out"
    remount(disk, "size=200k")
    done = run("derain", images, "--output", out, "--weights", weights)
    assert done.returncode == 3
    made = [path.name for path in out.glob("a*.png")]
    assert 0 < len(made) < 4
    assert all(cv2.imread(str(out / name)).shape == (150, 200, 3) for name in made)
    assert leftovers(disk) == []
    assert f"{4 - len(made)} failed:" in done.stdout
    assert "No space left on device" in done.stdout
    remount(disk, "size=64m")
    assert run("derain", images, "--output", out, "--weights", weights).returncode == 0
    assert len(list(out.glob("a*.png"))) == 4


@pytest.mark.parametrize("tool", ["derain", "export"])
def test_a_disk_that_is_read_only_or_full_is_told_in_one_line(tool, disk, weights, images):
    command = {
        "derain": ["derain", images, "--output", disk / "out", "--weights", weights],
        "export": ["export", weights, "--output", disk / "x.safetensors"],
    }[tool]
    leave(disk, 4096)
    (disk / "filler").write_bytes(bytes(4096 - 1))
    done = run(*command)
    assert done.returncode == 2
    assert str(disk) in error_of(done)
    files = [path.name for path in disk.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    assert files in (["filler"], [])
    remount(disk, "ro,size=64m")
    done = run(*command)
    assert done.returncode == 2
    assert "Read-only file system" in error_of(done)


# training -------------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_ends_the_training_and_the_one_before_it_is_good(disk):
    make_folders(disk)
    options = tiny_options()
    options["logger"] = {"print_freq": 1, "save_checkpoint_freq": 2}
    options["train"]["restorer_opt"] = {"start_iter": 1}
    options["train"]["total_iter"] = 2
    short = write_options(disk, options, "short.yml")
    options["train"]["total_iter"] = 4
    long = write_options(disk, options, "long.yml")
    assert train(disk, "train", "-opt", short).returncode == 0
    experiment = disk / "experiments" / "tiny"
    before = {path: path.read_bytes() for path in experiment.glob("*/*_2.*")}
    for free in (100_000, 8192):
        leave(disk, free)
        done = train(disk, "train", "-opt", long, "--auto_resume")
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        error_of(done)
        assert leftovers(disk) == []
        assert not (experiment / "training_states" / "4.sha256").exists()
        assert before == {path: path.read_bytes() for path in before}
        for path in experiment.glob("*/*4.*"):  # what is there is whole
            torch.load(path, weights_only=True) if path.suffix != ".safetensors" else None
    remount(disk, "size=64m")
    done = train(disk, "train", "-opt", long, "--auto_resume")
    assert done.returncode == 0
    assert "Resuming from epoch" in done.stderr + done.stdout
