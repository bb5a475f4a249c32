"""Work in a process of its own, whose memory is then that of the work alone."""

import contextlib
import ctypes
import importlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[1]


def call(function, **arguments):
    """Call a function of this package in a fresh process.

    Args:
        function: Its module and name, such as `search:peak`.
        **arguments: What it takes; as JSON.

    Returns:
        What it returns; as JSON.

    Raises:
        RuntimeError: If the process fails.
    """
    paths = [str(TOOLS), str(TOOLS.parent), os.environ.get("PYTHONPATH", "")]
    job = subprocess.run(
        [sys.executable, "-m", "benchmarks.own_process", function, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    if job.returncode:
        raise RuntimeError(f"{function} failed:\n{job.stderr[-3000:]}")
    return json.loads(job.stdout.splitlines()[-1])


def resident_mb():
    """Memory of this process at present."""
    return _status("VmRSS")


def reset_peak():
    """Give free memory back, so that it counts when it is taken again, and forget the largest memory so far (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb(device="cpu"):
    """Largest memory of this process since `reset_peak`; on a GPU, of its tensors there."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _status(name):
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:  # not Linux
        return 0.0
    return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) / 1024


if __name__ == "__main__":
    module, name = sys.argv[1].split(":")
    result = getattr(importlib.import_module(f"benchmarks.{module}"), name)(**json.loads(sys.argv[2]))
    print()
    print(json.dumps(result))
