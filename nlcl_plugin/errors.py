"""Exceptions that a command turns into one line and an exit code, without a traceback, and how that line is made."""


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
