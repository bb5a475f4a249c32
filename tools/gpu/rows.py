"""What a part reports: rows; and what it is given: a setting."""

import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

PASS, FAIL, MEASURED, NOT_RUN = "pass", "fail", "measured", "not run"


@dataclass
class Setting:
    """What the parts are given.

    Attributes:
        device: `cuda` or `cpu`.
        quick: Fewer cases and rounds.
        folder: Where a part may write.
        deadline: When a part should be over, in seconds of `time.time`, which all processes share.
    """

    device: str
    quick: bool
    folder: Path
    deadline: float

    @property
    def tiny(self) -> bool:
        """Whether sizes only test this program, as on a CPU."""
        return self.device == "cpu"

    def fits(self, seconds: float) -> bool:
        """Whether there is so much time left."""
        return time.time() + seconds <= self.deadline


def row(case, result, found, expected="", **figures):
    """One line of the report.

    Args:
        case: What was checked or measured.
        result: `PASS`, `FAIL`, `MEASURED` (a figure without a bound) or `NOT_RUN`.
        found: What was found, or the reason, as text.
        expected: The bound or condition of a check, as text.
        **figures: Numbers behind it, for the JSON report.
    """
    return {"case": case, "result": result, "found": found, "expected": expected, **figures}


def check(case, good, found, expected, **figures):
    """A row that passes or fails."""
    return row(case, PASS if good else FAIL, found, expected, **figures)


def no_time(case):
    """A row for what no longer fits."""
    return row(case, NOT_RUN, "time")


def attempt(case, work, *args):
    """The row that a function returns; of an error one that failed, and of too little memory one that says so."""
    try:
        return work(*args)
    except torch.cuda.OutOfMemoryError as error:
        return row(case, NOT_RUN, f"out of memory: {' '.join(str(error).split())[:200]}")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]} ({where.filename}:{where.lineno})"
        return row(case, FAIL, text, "no error")


def within(off, bound):
    """Whether all errors are at most so large; NaN is not."""
    return all(value <= bound for value in off.values())
