"""Where, with what and by which command a training was started, for who wants to repeat it."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import Any

import basicsr
import numpy as np
import torch
import torchvision

from nlcl_plugin.training.json_log import append
from nlcl_plugin.version import __version__

STARTS = "starts.jsonl"


def record_start(experiment: str | os.PathLike[str], opt: dict[str, Any], current_iter: int) -> None:
    """Append a line to `starts.jsonl`: a new training has one, each resumption adds one.

    Args:
        experiment: Folder of the training.
        opt: Complete options.
        current_iter: The iteration it goes on from, 0 for a new one.
    """
    entry = {
        "iter": current_iter,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command(),
        "folder": os.getcwd(),
        "environment": environment(opt),
    }
    append(Path(experiment) / STARTS, entry)


def environment(opt: dict[str, Any]) -> dict[str, str]:
    """Versions and devices of this process, by what they are of."""
    return {
        "nlcl_plugin": __version__,
        "BasicSR": basicsr.__version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPU cores",
        "device": torch.cuda.get_device_name() if opt["num_gpu"] else f"CPU, {torch.get_num_threads()} threads",
        "processes": str(opt["world_size"]),
    }


def command() -> str:
    """The command line of this process, as a shell takes it; behind a launcher, its own part of it."""
    program, *arguments = sys.argv
    path = Path(program)
    if path.name == "__main__.py":
        start = ["python", "-m", path.parent.name]
    elif path.suffix == ".py":
        start = ["python", program]
    else:
        start = [path.name]
    return shlex.join([*start, *arguments])
