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

from nlcl_plugin.data.files import json_text, parse_record, write_whole
from nlcl_plugin.errors import InputError, counted
from nlcl_plugin.version import __version__

STARTS = "starts.jsonl"


class JsonLog:
    """`losses.jsonl` and `metrics.jsonl`: one line per entry. An InputError if the file contains something else.

    A run that continues from `current_iter` removes what came after it; a new one, from 0, removes everything.
    """

    def __init__(self, path: str, current_iter: int) -> None:
        self.path = path
        entries = _entries(path) if current_iter else []
        write_whole(path, "".join(line for line, entry in entries if entry["iter"] <= current_iter).encode())

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry; `iter` is one of its keys."""
        _append(self.path, entry)


def _append(path: str | os.PathLike[str], entry: dict[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json_text(entry) + "\n")


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log, also while it is written and after a kill: a last line that is cut short is left out.

    There are no entries if there is no file, as in a run of stock BasicSR. A line that is no entry is an `InputError`.
    """
    return [entry for _, entry in _entries(path)]


def _entries(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    if not os.path.isfile(path):
        return []
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):  # cut short by a kill
                break
            try:
                entry = parse_record(line)
                if type(entry.get("iter")) is not int:
                    raise ValueError("no iteration")
            except ValueError as error:
                raise InputError(f"{path}: line {number} is no entry of a log; move the file away") from error
            found.append((line, entry))
    return found


def record_start(experiment: str | os.PathLike[str], opt: dict[str, Any], current_iter: int) -> None:
    """Append a line to `starts.jsonl` of an experiment: a new training has one, each resumption adds one."""
    program, *arguments = sys.argv
    path = Path(program)
    script = ["-m", path.parent.name] if path.name == "__main__.py" else [program]
    start = ["python", *script] if path.suffix == ".py" else [path.name]
    threads = counted(torch.get_num_threads(), "thread")
    entry = {
        "iter": current_iter,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([*start, *arguments]),
        "folder": os.getcwd(),
        "environment": {
            "nlcl_plugin": __version__,
            "BasicSR": basicsr.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "numpy": np.__version__,
            "Python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} CPU cores",
            "device": torch.cuda.get_device_name() if opt["num_gpu"] else f"CPU, {threads}",
            "processes": str(opt["world_size"]),
        },
    }
    _append(Path(experiment) / STARTS, entry)
