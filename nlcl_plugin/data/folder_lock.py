"""One run at a time in a folder."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from nlcl_plugin.errors import InputError, writing_to

LOCK = ".lock"
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}


@contextmanager
def locked(folder: str | os.PathLike[str], *, inside: bool = False) -> Iterator[None]:
    """Keep other runs out of a folder, which need not exist.

    The operating system holds the lock (`flock`), so that it ends with the process, however that ends. Over NFS the
    server holds it, also against other machines (not where it is mounted with `nolock`). Where a file system has no
    locks at all, there is a warning and no lock.

    Args:
        folder: The folder. Unless `inside`, it may be renamed or removed meanwhile.
        inside: Whether the lock file is `.lock` in the folder, which is made; by default it is beside it.

    Raises:
        InputError: If another run is at work there, or the lock file cannot be written.
    """
    folder = Path(folder)
    file = folder / LOCK if inside else folder.with_name(f".{folder.name}{LOCK}")
    made = not file.parent.is_dir()
    # Its own fallback, a file that marks the folder as taken, would outlive a run that dies on another machine.
    lock = filelock.FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        message = f"{folder}: another run is at work in this folder; wait for it, or choose another name"
        raise InputError(message) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            with writing_to(folder):
                raise
        message = f"{folder}: the file system has no locks ({error.strerror}); start no second run in this folder"
        warnings.warn(message, stacklevel=3)
    try:
        yield
    finally:
        with suppress(OSError):  # before the lock ends: whoever opened the file finds that it has no name any more
            file.unlink()
        lock.release()
        if made:
            with suppress(OSError):  # if it stays empty, the run has left nothing
                file.parent.rmdir()
