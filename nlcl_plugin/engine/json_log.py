"""What a run logs, as JSON lines, exact to the last bit, for plots and for comparing runs."""

from __future__ import annotations

import json
import os
from typing import Any

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import InputError


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
        file.write(json.dumps(entry) + "\n")


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log, also while it is written and after a kill: a last line that is cut short is left out.

    Args:
        path: The file.

    Returns:
        Its entries; none if there is no file, as in a run of stock BasicSR.

    Raises:
        InputError: If a line is no entry.
    """
    return [entry for _, entry in _entries(path)]


def _lines_up_to(path: str, current_iter: int) -> list[str]:
    return [line for line, entry in _entries(path) if entry["iter"] <= current_iter]


def _entries(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    if not os.path.exists(path):
        return []
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):  # cut short by a kill
                break
            try:
                entry = json.loads(line)
                found.append((line, {"iter": int(entry["iter"]), **entry}))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: line {number} is no entry of a log; move the file away") from error
    return found
