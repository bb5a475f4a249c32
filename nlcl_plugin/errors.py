"""Exceptions that a command turns into one line and an exit code, without a traceback."""


class InputError(ValueError):
    """A fault in what the user gave: an option, a path or a file.

    The message is one line and says what was received, what was expected and what to do. Commands print it and
    exit with code 2.
    """


class TrainingStoppedError(RuntimeError):
    """Training stopped itself because going on could only waste time (NaN, collapse).

    Commands print the message and exit with code 4.
    """
