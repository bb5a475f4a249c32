"""Errors of single files, which name the file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from torch.utils.data import Dataset

from nlcl_plugin.data.image_io import decode_stored, read_bytes
from nlcl_plugin.errors import InputError


class ExplainedDataset(Dataset[Any]):
    """A dataset that names the files of the sample that it fails on.

    Stock datasets fail with an AttributeError that names no file. Attributes are those of the dataset inside.

    Args:
        dataset: A dataset; if it has BasicSR's `paths`, these are the names.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """The length of the dataset inside."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Load a sample.

        Raises:
            InputError: If the dataset raised one or a ValueError, or a file of the sample is missing or unreadable.
        """
        try:
            return self.dataset[index]
        except (InputError, IndexError):  # the latter ends a plain loop
            raise
        except Exception as error:
            files = self._files(index)
            for file in files:
                if os.path.isfile(file) or getattr(error, "filename", None) == file:
                    decode_stored(read_bytes(file), file)  # raises an InputError that names it
            if not isinstance(error, ValueError):  # BasicSR's, of images that don't fit each other
                raise
            on = f" fails on {' and '.join(files)}" if files else ""
            reason = "".join(map(str, error.args)).strip()  # BasicSR splits some messages into two arguments
            raise InputError(f"{type(self.dataset).__name__}{on}: {reason}") from error

    def __getattr__(self, name: str) -> Any:
        """Look up what is not here in the dataset inside."""
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _files(self, index: int) -> list[str]:
        paths = getattr(self.dataset, "paths", ())
        if len(paths) != len(self.dataset):
            return []
        entry = paths[int(index)]
        return [str(path) for path in (entry.values() if isinstance(entry, dict) else [entry])]


@contextlib.contextmanager
def faults_of_workers() -> Iterator[None]:
    """Make one line of a loader worker's InputError, which arrives with its traceback as text, the message last."""
    try:
        yield
    except InputError as error:
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
        raise InputError(message) from error
