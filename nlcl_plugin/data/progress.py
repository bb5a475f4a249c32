"""Progress of long work: a bar on a terminal, and a line per minute in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_INTERVAL = 60.0  # seconds; what takes less writes nothing into a log


class ProgressBar(tqdm):
    """tqdm with its arguments; where standard error is no terminal it writes a line per minute."""

    monitor_interval = 0  # no thread beside the work, which may fork

    def __init__(self, *args: Any, shown: bool = True, **settings: Any) -> None:
        isatty = getattr(settings.get("file") or sys.stderr, "isatty", None)  # which some loggers in its place lack
        self._on_terminal = isatty is not None and isatty()
        settings = {"miniters": 1, **settings}  # the clock decides when it is drawn, not a guess of tqdm's
        if not self._on_terminal:
            settings = {"mininterval": _INTERVAL, "delay": _INTERVAL, "leave": False, "ncols": 100, **settings}
        super().__init__(*args, **{**settings, "disable": not shown})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or write the line."""
        if self._on_terminal:
            super().display(msg, pos)
        elif msg != "":  # which clears a bar
            self.fp.write(f"{self if msg is None else msg}\n")
