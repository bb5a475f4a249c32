"""One run at a time in a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nlcl_plugin.errors import InputError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make a folder if it is not there, and keep other runs out of it; one that was made and stays empty is removed.

    The lock ends with the process, however that ends. Where there are no locks, as on Windows and some network file
    systems, nothing stops two runs in one folder.

    Args:
        folder: The folder.

    Raises:
        InputError: If another run is at work there.
        OSError: If it cannot be made or opened.
    """
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    busy = InputError(f"{folder}: another run is at work in this folder; wait for it")
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError as error:  # it has finished just now and renamed or removed the folder
        raise busy from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy from error
        except OSError:  # NFS gives exclusive locks for files alone, others none at all
            pass
        if not _is_at(handle, folder):
            raise busy  # as above
        try:
            yield
        finally:
            # After a rename, the folder of this name may be that of the next run.
            if made and _is_at(handle, folder):
                with suppress(OSError):
                    folder.rmdir()
    finally:
        os.close(handle)


def _is_at(handle: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(folder))
    except FileNotFoundError:
        return False
