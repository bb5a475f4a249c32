"""Exceptions that a command turns into one line and an exit code, without a traceback, and how that line is made."""

from __future__ import annotations

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A fault in what the user gave: an option, a path or a file.

    The message is one line and says what was received, what was expected and what to do. Commands print it and
    exit with code 2.
    """


class TrainingStoppedError(RuntimeError):
    """Training stopped itself because going on could only waste time (NaN, collapse).

    Commands print the message and exit with code 4.
    """


def escape(text: str) -> str:
    """Make one printable line of a text that may hold file names with newlines or bytes that are no Unicode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def exit_code_of(work: Callable[[], int], *, interrupted: str = "run the same command again to go on") -> int:
    """Do the work of a script and turn what ends it early into one line and an exit code.

    Args:
        work: Returns the exit code.
        interrupted: What to do after an interruption.

    Returns:
        The exit code of the work; 2 for a fault in what the user gave, 5 after an interruption.
    """
    try:
        return work()
    except InputError as error:
        print(escape(f"error: {error}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 5
