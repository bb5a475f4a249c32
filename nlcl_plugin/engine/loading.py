"""Faults of single files, told by name."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import cv2

from nlcl_plugin.errors import InputError

LIMIT = 20  # seconds that are spent on looking for the file: other processes are waiting


@contextlib.contextmanager
def explained(dataset: Any) -> Iterator[None]:
    """Turn a failure while reading a dataset into one line that names the unreadable file.

    Stock datasets fail with an AttributeError that names no file. Files are looked through only after a failure, and
    not for long.

    Args:
        dataset: A dataset; if it has BasicSR's `paths`, these are tried.

    Raises:
        InputError: If the dataset raised one or a ValueError (also in a loader worker), or a file turns out to be
            unreadable.
    """
    try:
        yield
    except InputError as error:
        raise InputError(_told(error, f"{InputError.__module__}.{InputError.__name__}: ")) from error
    except Exception as error:
        end = time.monotonic() + LIMIT
        for path in _files(dataset):
            if time.monotonic() > end:
                break
            if os.path.isfile(path) and cv2.imread(path) is None:
                raise InputError(f"{path}: not a readable image; repair it or take it out of the folder") from error
        if dataset is not None and isinstance(error, ValueError):  # BasicSR's, of images that don't fit each other
            raise InputError(f"{type(dataset).__name__}: {_told(error, 'ValueError: ')}") from error
        raise


def _told(error: Exception, prefix: str) -> str:
    """The message; a loader worker's error arrives with its traceback as text, the message in the last line."""
    return str(error).strip().splitlines()[-1].removeprefix(prefix)


def _files(dataset: Any) -> Iterator[str]:
    for entry in getattr(dataset, "paths", ()):
        yield from (str(value) for value in (entry.values() if isinstance(entry, dict) else (entry,)))
