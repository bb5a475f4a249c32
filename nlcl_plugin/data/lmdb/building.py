"""The folder of an LMDB that is being made: nothing is lost by a kill, and it gets its name when it is whole.

An LMDB is built in `X.lmdb.building`. A batch of images goes into `data.mdb`, and only when it is on the disk, its
lines go into `keys.jsonl`: what that file lists is there. `build.json` says of which images and settings it is made.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lmdb

from nlcl_plugin.data.files import remove_leftovers, sync_folder, written_whole
from nlcl_plugin.data.lmdb.encode import Encoded
from nlcl_plugin.data.lmdb.keys import KEYS_FILE, Record, from_line, sub_image_key, to_line
from nlcl_plugin.data.lmdb.store import check_length, close_environment
from nlcl_plugin.errors import InputError

FIRST_MAP_BYTES = 1 << 28  # room in the address space, not on the disk; doubled when it is full

META_FILE = "meta_info.txt"
SKIPPED_FILE = "skipped.jsonl"
_BUILD_FILE = "build.json"
# Of a bank of rain layers: where it came from, and a picture to look at.
BANK_FILE = "rain_bank.json"
SHEET_FILE = "rain_bank.png"
_FILES = {"data.mdb", "lock.mdb", META_FILE, KEYS_FILE, SKIPPED_FILE, _BUILD_FILE, BANK_FILE, SHEET_FILE}


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An image file when it was listed.

    Attributes:
        name: Its path below the folder, with forward slashes.
        key: Its key; sub-images add their number.
        state: Its size and time of change, by which a change is noticed.
    """

    name: str
    key: str
    state: tuple[int, int]


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    source: str
    reason: str


class Batch:
    """Images that are written in one transaction."""

    def __init__(self) -> None:
        """Begin with none."""
        self.values: list[tuple[Record, bytes]] = []
        self.skipped: list[Skipped] = []
        self.images = 0
        self.bytes = 0

    def add(self, source: SourceFile, encoded: Encoded, *, numbered: bool) -> None:
        """Add an image with all its sub-images.

        Args:
            source: The image.
            encoded: Its values.
            numbered: Whether the keys are those of sub-images.
        """
        self.images += 1
        for number, value in enumerate(encoded.values, start=1):
            key = sub_image_key(source.key, number) if numbered else source.key
            record = Record(key, source.name, value.box, *value.shape, len(value.data), value.sha256)
            self.values.append((record, value.data))
            self.bytes += len(value.data)


class Building:
    """An unfinished LMDB, opened for writing: a new one, or that of a run of the same plan that was stopped.

    Args:
        folder: The folder, there and locked.
        plan: What decides the result.
        tell: Gets a line if an earlier run is continued or given up.
    """

    def __init__(self, folder: Path, plan: dict[str, Any], tell: Callable[[str], object]) -> None:
        """Open it; what an earlier run of another plan has left is removed."""
        self._folder = folder
        self._tell = tell
        remove_leftovers(folder)
        resumed = read_plan(folder) == plan
        if not resumed:
            if (folder / _BUILD_FILE).exists():
                tell(f"{folder}: was begun with other images or settings; it is built anew")
            _empty(folder)
        # No lock file: no other run is at work, and where it does not fit on a disk, writing to it kills the process.
        self._environment = lmdb.open(os.fsencode(folder), map_size=FIRST_MAP_BYTES, meminit=False, lock=False)
        try:
            check_length(self._environment, folder)
        except InputError:
            self._environment.close()
            raise
        if not resumed:
            # Last, as it says that the database is more than a file that was just being made.
            with written_whole(folder / _BUILD_FILE) as file:
                file.write(json.dumps(plan).encode() + b"\n")

    def __enter__(self) -> Building:
        """Nothing more to do."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the database."""
        self._environment.close()

    def position(self, names: list[str]) -> int:
        """Find where to go on, and forget what is listed behind that.

        The last image listed is made again: of its sub-images, some lines may be missing.

        Args:
            names: The names of all images, sorted.

        Returns:
            The index of the first that is to be made.
        """
        journal = self._folder / KEYS_FILE
        last, start, offset = "", 0, 0  # the last image listed, where its lines start, where the line read ends
        if journal.exists():
            with journal.open("rb") as file:
                for line in file:
                    try:
                        record = from_line(line)
                    except ValueError:
                        break  # torn by the kill
                    if record.source != last:
                        last, start = record.source, offset
                    offset += len(line)
            os.truncate(journal, start)
        if (self._folder / SKIPPED_FILE).exists():
            kept = [skipped for skipped in read_skipped(self._folder) if skipped.source < last]
            with written_whole(self._folder / SKIPPED_FILE) as file:
                file.write(_lines(kept))
        position = bisect.bisect_left(names, last)
        if position:
            self._tell(f"{self._folder}: going on with image {position + 1} of {len(names)}")
        return position

    def commit(self, batch: Batch) -> None:
        """Write a batch to the disk, then list it."""
        while True:
            try:
                with self._environment.begin(write=True) as transaction:
                    for record, data in batch.values:
                        transaction.put(record.key.encode(), data)
                break
            except lmdb.MapFullError:  # which has undone the whole batch
                self._environment.set_mapsize(2 * self._environment.info()["map_size"])
        # The skipped first: that an image is listed says that all before it are settled.
        if batch.skipped:
            _append(self._folder / SKIPPED_FILE, _lines(batch.skipped))
        _append(self._folder / KEYS_FILE, b"".join(to_line(record) for record, _ in batch.values))


def read_plan(folder: Path) -> Any:
    """Return the plan that an LMDB is made by; None if it is unknown."""
    try:
        return json.loads((folder / _BUILD_FILE).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None


def read_skipped(folder: Path) -> list[Skipped]:
    """Return the images that were left out of an LMDB, as they could not be read.

    Raises:
        InputError: If the file that lists them is damaged.
    """
    path = folder / SKIPPED_FILE
    try:
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # a line without an end is torn
        skipped = [Skipped(**json.loads(line)) for line in lines]
        if not all(isinstance(text, str) for one in skipped for text in (one.source, one.reason)):
            raise ValueError("names and reasons are texts")
        return skipped
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: is damaged ({error}); build the LMDB again") from error


def check_replaceable(target: Path) -> None:
    """See that what a new LMDB is to replace is nothing but an LMDB.

    Raises:
        InputError: If it is not.
    """
    if not target.exists():
        return
    foreign = _foreign(target)
    if foreign or not (target / "data.mdb").is_file():
        found = f"holds {foreign[0]}" if foreign else "has no data.mdb"
        raise InputError(f"{target}: {found}, so it is not an LMDB to replace; choose another --output")


def swap(building: Path, target: Path) -> None:
    """Give a whole LMDB its name; the one that had it is removed then."""
    sync_folder(building)
    if target.exists():
        close_environment(target)
        os.rename(target, _replaced(target))
    os.rename(building, target)
    sync_folder(target.parent)
    remove(_replaced(target))


def mend_swap(target: Path) -> None:
    """After a kill within `swap`, put the former LMDB back, or away if the new one is there."""
    if target.exists():
        remove(_replaced(target))
    elif _replaced(target).exists():
        os.rename(_replaced(target), target)


def _replaced(target: Path) -> Path:
    return target.with_name(f"{target.name}.replaced")


def remove(folder: Path) -> None:
    """Remove an LMDB, if it is there.

    Raises:
        InputError: If the folder holds anything else.
    """
    if folder.exists():
        _empty(folder)
        folder.rmdir()


def _empty(folder: Path) -> None:
    foreign = _foreign(folder)
    if foreign:
        raise InputError(f"{folder}: holds {foreign[0]}, which is not of an LMDB; move it away and run again")
    # First what says whose the others are: a kill must not leave it with some of them.
    (folder / _BUILD_FILE).unlink(missing_ok=True)
    for name in os.listdir(folder):
        (folder / name).unlink()


def _foreign(folder: Path) -> list[str]:
    """What no LMDB has: other names, and folders."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name not in _FILES or entry.is_dir())


def _lines(skipped: list[Skipped]) -> bytes:
    return b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in skipped)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
