"""The losses of a run as JSON lines, exact to the last bit, for plots and for comparing runs."""

from __future__ import annotations

import json
import os
from typing import Any

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import InputError


class LossLog:
    """`losses.jsonl`: one line a logged iteration. A resumed run takes out what came after its checkpoint.

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
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _lines_up_to(path: str, current_iter: int) -> list[str]:
    if not os.path.exists(path):  # a run of stock BasicSR
        return []
    kept = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):  # cut short by a kill
                break
            try:
                if json.loads(line)["iter"] <= current_iter:
                    kept.append(line)
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{path}: line {number} is no entry of a loss log; move the file away") from error
    return kept
