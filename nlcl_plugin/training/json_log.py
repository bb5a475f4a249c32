"""What a run logs, as JSON lines, exact to the last bit, for plots and for comparing runs."""

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

from nlcl_plugin.data.files import json_text, parse_record, written_whole
from nlcl_plugin.errors import InputError
from nlcl_plugin.version import __version__


class JsonLog:
    """`losses.jsonl` and `metrics.jsonl`: a line an entry. A resumed run takes out what came after its checkpoint.

    Args:
        path: The file.
        current_iter: The iteration that the run goes on from, 0 for a new one.

    Raises:
        InputError: If the file holds something else.
    """

    def __init__(self, path: str, current_iter: int) -> None:
        self._path = path
        kept = _lines_up_to(path, current_iter) if current_iter else []
        with written_whole(path) as file:
            file.write("".join(kept).encode())

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry; `iter` is one of its keys."""
        append(self._path, entry)


def append(path: str | os.PathLike[str], entry: dict[str, Any]) -> None:
    """Append an entry to a file of JSON lines, which is made if it is not there."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json_text(entry) + "\n")


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log, also while it is written and after a kill: a last line that is cut short is left out.

    Args:
        path: The file.

    Returns:
        Its entries; none if there is no file, as in a run of stock BasicSR.

    Raises:
        InputError: If it cannot be read, or a line is no entry.
    """
    return [entry for _, entry in _entries(path)]


def _lines_up_to(path: str, current_iter: int) -> list[str]:
    return [line for line, entry in _entries(path) if entry["iter"] <= current_iter]


def _entries(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    if not os.path.isfile(path):
        return []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if lines and not lines[-1].endswith("\n"):  # cut short by a kill
        del lines[-1]
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_record(line)
            if type(entry.get("iter")) is not int:
                raise ValueError("no iteration")
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no entry of a log; move the file away") from error
        found.append((line, entry))
    return found


# starts ---------------------------------------------------------------------------------------------------------------
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
