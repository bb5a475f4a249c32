"""Exceptions that a command turns into one line and an exit code, without a traceback, and how that line is made."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {*_FULL, errno.EFBIG, errno.EROFS, errno.EIO}


class InputError(ValueError):
    """A fault in what the user gave: an option, a path or a file.

    The message is one line and says what was received, what was expected and what to do. Commands print it and
    exit with code 2.
    """


class TrainingStoppedError(RuntimeError):
    """Training stopped itself because continuing could only waste time (NaN, collapse).

    Commands print the message and exit with code 4.
    """


@contextmanager
def writing_to(
    path: str | os.PathLike[str], *kinds: type[Exception], advice: str = "choose another place"
) -> Iterator[None]:
    """Turn an `OSError`, or an error of another kind, of writing to a path into an `InputError` with an advice."""
    caught: tuple[type[Exception], ...] = (OSError, *kinds)
    try:
        yield
    except caught as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason = f"{error.filename} is a file, not a folder" if isinstance(error, FileExistsError) else reason
        raise InputError(f"{path}: cannot be written ({reason}); {_make_room(error)}{advice}") from error


def _make_room(error: Exception) -> str:
    return "make room or " if getattr(error, "errno", None) in _FULL else ""


def counted(count: int, noun: str) -> str:
    """A number and what it counts: `1 image`, `2 images`, `2 processes`."""
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('s') else 's'}"


def size_of(count: int) -> str:
    """A number of bytes in kB, MB or GB."""
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB") if count >= 1e6 else (1e3, "kB")
    return f"{count / unit:.1f} {name}"


def escape(text: str) -> str:
    """Make one printable line of a text that may contain file names with newlines or bytes that are no Unicode."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def rank_in_environment() -> str:
    """Rank that the launcher gave this process, 0 without one; known also where the group is not, or never, joined."""
    names = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return next((os.environ[name] for name in names if os.environ.get(name)), "0")


def print_line(message: str) -> None:
    """Print a message to stderr as one line, which names the rank of the process if that is not 0."""
    rank = rank_in_environment()
    print(f"[rank {rank}] " * (rank != "0") + escape(message.strip()), file=sys.stderr)


def exit_code_of(work: Callable[[], int], *, interrupted: str = "run the same command again to continue") -> int:
    """Do the work of a command and turn what ends it early into one line and an exit code.

    Args:
        work: Returns the exit code.
        interrupted: What to do after an interruption.

    Returns:
        The exit code of the work; 2 for a fault in what the user gave and for a disk that is full, read-only or broken,
        4 if training stopped itself, 5 after an interruption; 141, as after SIGPIPE, if its output is no longer read.
    """
    try:
        try:
            return work()
        finally:
            sys.stdout.flush()  # so that a closed pipe shows here, and not at the interpreter's end
    except InputError as error:
        print_line(f"error: {error}")
        return 2
    except TrainingStoppedError as error:
        print_line(f"stopped: {error}")
        return 4
    except KeyboardInterrupt:
        print_line(f"interrupted; {interrupted}")
        return 5
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        if error.errno not in _DISK:
            raise
        where = f"{error.filename}: " if error.filename else ""
        advice = f"{_make_room(error)}choose another place, then run it again"
        print_line(f"error: {where}cannot be written ({error.strerror}); {advice}")
        return 2
