"""Read images from BasicSR's LMDB layout: a folder `x.lmdb` with `data.mdb` and `meta_info.txt`.

Two facts rule how environments are opened here:

- lmdb >= 2 refuses to open files twice in a process, so everything that reads one LMDB (training, validation, threads)
  shares an environment.
- A forked process must not use the environments of its parent, but it inherits lmdb's table of what is open: it has to
  close them before it can open its own. Closing waits for the reads in progress, and a read that another thread of the
  parent was in at the moment of the fork never ends in the child: lmdb 2 and 3 hang there, 1.x crashes. So each read
  holds a lock, and a fork waits for that lock.
"""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import lmdb

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES
from nlcl_plugin.data.image_sources import ImageSource
from nlcl_plugin.errors import InputError

# Reentrant, so that a fork inside a transaction does not wait for itself.
_lock = threading.RLock()
_environments: dict[str, lmdb.Environment] = {}  # by resolved path; of this process only

# `name.png (h,w,c) level`. The name itself may hold spaces, dots and brackets, which is why the line is not just split.
_META_LINE = re.compile(
    rf"(?P<key>.+)(?:{'|'.join(map(re.escape, IMAGE_SUFFIXES))})(?:\s+\(\s*\d+(?:\s*,\s*\d+){{1,2}}\s*\)(?:\s+\d+)?)?",
    re.IGNORECASE,
)


class SharedEnvironment:
    """The one read-only environment that this process has for an LMDB.

    It stays valid in forked and spawned processes, which open their own at the first use.

    Args:
        path: The LMDB's folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.realpath(path)

    def get(self, key: bytes) -> bytes | None:
        """Read the value of a key; None if there is no such key."""
        with _lock:
            return _read(_environment(self.path), key)

    def __len__(self) -> int:
        with _lock:
            return int(_environment(self.path).stat()["entries"])


def _read(environment: lmdb.Environment, key: bytes) -> bytes | None:
    # A function of its own, so that the transaction is gone before the caller gives the lock back: lmdb 1.x frees it
    # a second time if a fork comes between.
    with environment.begin() as transaction:
        return transaction.get(key)


def open_environment(path: str | os.PathLike[str]) -> SharedEnvironment:
    """Open an LMDB for reading, or return the environment that this process has open.

    Raises:
        InputError: If it cannot be opened, or its data file is cut short.
    """
    shared = SharedEnvironment(path)
    with _lock:
        _environment(shared.path)
    return shared


def close_environment(path: str | os.PathLike[str]) -> None:
    """Close this process's environment, if there is one; needed before the LMDB is written again in this process."""
    with _lock:
        environment = _environments.pop(os.path.realpath(path), None)
        if environment is not None:
            environment.close()


def _environment(path: str) -> lmdb.Environment:
    """Return the open environment of a resolved path; the caller holds the lock."""
    if path in _environments:
        return _environments[path]
    try:
        # No lock file, as the folder may be read-only; no read-ahead, as images are read in random order; no spare
        # transactions, as they would outlive the lock.
        name = os.fsencode(path)  # as text it would have to be Unicode
        environment = lmdb.open(name, readonly=True, lock=False, readahead=False, meminit=False, max_spare_txns=0)
    except lmdb.Error as error:
        raise InputError(
            f"{path}: cannot be opened as an LMDB ({error}); rebuild it, or close what else uses it in this process"
        ) from error
    try:
        check_length(environment, path)
    except InputError:
        environment.close()
        raise
    _environments[path] = environment
    return environment


def check_length(environment: lmdb.Environment, path: str | os.PathLike[str]) -> None:
    """See that the file of an open LMDB is as long as it says.

    Reading or writing a map beyond the end of its file kills the process with SIGBUS and no message.

    Raises:
        InputError: If it is cut short.
    """
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    received = os.path.getsize(os.path.join(path, "data.mdb"))
    if received < expected:
        raise InputError(f"{path}: data.mdb is cut short, {received} of {expected} bytes; copy or build it again")


def _close_inherited() -> None:
    try:
        for environment in _environments.values():
            environment.close()
    finally:
        _environments.clear()
        _lock.release()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_close_inherited)


class LmdbImages(ImageSource):
    """The encoded images of an LMDB. Objects can be pickled; each process opens the LMDB for itself.

    Args:
        path: A folder whose name ends in `.lmdb`.

    Raises:
        InputError: If it is not a whole LMDB in BasicSR's layout.

    Attributes:
        root: The folder, as given.
        names: The keys in the order of `meta_info.txt`: image names without their ending.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.root = os.fspath(path)
        folder = Path(path)
        if folder.suffix != ".lmdb":
            raise InputError(f"{self.root}: expected a folder whose name ends in .lmdb; give the LMDB's own folder")
        if not os.path.isdir(path):
            raise InputError(f"{self.root}: no such folder; expected an LMDB folder, correct the path or build it")
        for name in ("data.mdb", "meta_info.txt"):
            if not os.path.isfile(folder / name):
                raise InputError(f"{self.root}: {name} is missing; expected BasicSR's LMDB layout, build it again")
        self.names = _read_keys(folder / "meta_info.txt")
        self._environment = open_environment(path)
        if len(self._environment) < len(self.names):
            raise InputError(
                f"{self.root}: contains {len(self._environment)} images, but its meta_info.txt lists {len(self.names)}"
                "; build it again"
            )

    def read(self, name: str) -> bytes:
        """Read the encoded image of a key.

        Raises:
            InputError: If the key is missing or has no content.
        """
        try:
            value = self._environment.get(name.encode())
        except lmdb.Error as error:  # for example an empty key or a damaged page
            raise InputError(f"{self.root}: key {name!r} cannot be read ({error}); build the LMDB again") from error
        if not value:
            raise InputError(f"{self.root}: has no image with the key {name!r}, or an empty one; build the LMDB again")
        return value


def _read_keys(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}); build the LMDB again") from error
    keys: dict[str, int] = {}  # key: line
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _META_LINE.fullmatch(line.strip())
        if match is None:
            shown = line.strip()[:80]
            raise InputError(f"{path}: line {number} is {shown!r}; expected 'name.png (h,w,c) level', fix it")
        key = match["key"]
        if os.pardir in key.split("/"):  # results are named by keys
            raise InputError(f"{path}: line {number} has the key {key!r}, which leads out of any folder; rename it")
        if key in keys:
            # Stock writers store equal names from different folders under one key: all but the last image are lost.
            raise InputError(
                f"{path}: key {key!r} is in the lines {keys[key]} and {number}, so images have overwritten each other; "
                "build the LMDB again with the folders in the keys"
            )
        keys[key] = number
    if not keys:
        raise InputError(f"{path}: lists no image; expected lines 'name.png (h,w,c) level', build the LMDB again")
    return list(keys)
