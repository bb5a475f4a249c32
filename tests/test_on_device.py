"""The tests of `tests/on_device`, in a process of their own."""

import subprocess
import sys


def test_everything_runs_on_a_pretended_device(repository):
    # torch must know the device before the first backward pass of a process, and then knows it to the end.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/on_device"]
    job = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stdout[-6000:] + job.stderr[-2000:]
