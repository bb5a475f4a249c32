"""Exceptions that a command turns into one line and an exit code, without a traceback, and how that line is made."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


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


def rank_in_environment() -> str:
    """Rank that the launcher gave this process, 0 without one; known also where the group is not, or never, joined."""
    names = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if os.environ.get(name)), "0")


def disk_fault(error: OSError) -> str | None:
    """Say that a disk is full, read-only or broken, if that is what an error is of; other errors are faults of ours.

    Args:
        error: What was raised while something was written.

    Returns:
        The line, or None.
    """
    if error.errno not in _DISK:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}cannot be written ({error.strerror}); make room or choose another place, then run it again"


def exit_code_of(work: Callable[[], int], *, interrupted: str = "run the same command again to go on") -> int:
    """Do the work of a script and turn what ends it early into one line and an exit code.

    Args:
        work: Returns the exit code.
        interrupted: What to do after an interruption.

    Returns:
        The exit code of the work; 2 for a fault in what the user gave or a full disk, 5 after an interruption.
    """
    try:
        return work()
    except InputError as error:
        print(escape(f"error: {error}"), file=sys.stderr)
        return 2
    except OSError as error:
        line = disk_fault(error)
        if line is None:
            raise
        print(escape(f"error: {line}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        return 5
