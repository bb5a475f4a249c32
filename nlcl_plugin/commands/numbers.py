"""Numbers of a command line, in their range."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def number(low: int, high: int | None = None, kind: type[int] | type[float] = int) -> Callable[[str], float]:
    """A `type` for argparse: numbers of a kind from `low` to `high`."""
    words = f"{'whole ' if kind is int else ''}number from {low}" + (f" to {high}" if high is not None else "")

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = low - 1
        if low <= value and (high is None or value <= high):
            return value
        raise argparse.ArgumentTypeError(f"expected a {words}, but received {text}")

    return read
