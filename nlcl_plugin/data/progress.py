"""Progress of long work: a bar on a terminal, and a line per minute in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_INTERVAL = 60.0  # seconds; what takes less writes nothing into a log


class ProgressBar(tqdm):
    """tqdm with its arguments; where standard error is no terminal it writes a line per minute.

    Args:
        shown: Whether to show anything.
    """

    def __init__(self, *args: Any, shown: bool = True, **settings: Any) -> None:
        if not (settings.get("file") or sys.stderr).isatty():
            intervals: dict[str, Any] = dict.fromkeys(("mininterval", "maxinterval", "delay"), _INTERVAL)
            settings = {**intervals, "leave": False, "ncols": 100, **settings}
        super().__init__(*args, **{**settings, "disable": not shown})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write the line."""
        if self.fp.isatty():
            super().display(msg, pos)
        elif msg != "":  # which clears a bar
            self.fp.write(f"{self if msg is None else msg}\n")
