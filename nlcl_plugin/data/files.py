"""Files that are there whole or not at all, also after a kill or a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_LEFTOVER = re.compile(r".+\.\d+\.tmp")


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing; it gets its name when it is whole and on the disk.

    Until then a file of that name stays as it was. A kill leaves at most a temporary file beside it.

    Args:
        path: The file.

    Yields:
        The temporary file, open for binary writing.

    Raises:
        OSError: If it cannot be written; the temporary file is gone.
    """
    path = os.fspath(path)
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    sync_folder(os.path.dirname(path) or ".")


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring new and removed names of a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):  # not every file system or platform opens folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of `written_whole` in a folder; nobody may be writing there."""
    for path in Path(folder).glob("*.tmp"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def sha256(path: str | os.PathLike[str]) -> str:
    """Hash a file of any size.

    Args:
        path: The file.

    Returns:
        The SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
