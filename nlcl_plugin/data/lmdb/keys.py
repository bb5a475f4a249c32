"""The images that an LMDB is made of, their keys, and `keys.jsonl` beside `meta_info.txt` with the origin of each."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nlcl_plugin.data.files import parse_record
from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.errors import InputError

KEYS_FILE = "keys.jsonl"

Box = tuple[int, int, int, int]  # top, left, height, width

# LMDB takes keys of 511 bytes; this leaves room for `_s001` and beyond.
_LONGEST = 490
_SAFE = frozenset(range(0x21, 0x7F)) - set(b".=")


def keys_of(names: list[str]) -> list[str]:
    """Make a key for each path below a folder, in ASCII and without dots and blanks, as stock readers need it.

    A key is the name without its ending, with its sub-folders. Every other byte, and `=`, becomes `=` and two hex
    digits; where names differ in their endings alone, these are kept (`a==png`, `a==jpg`); a name too long for LMDB
    is cut, and its hash put behind `=~`. So different names always get different keys.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    keys = []
    for name, stem in zip(names, stems, strict=True):
        key = _escape(stem) + (f"=={_escape(name[len(stem) + 1 :])}" if counts[stem] > 1 else "")
        keys.append(key if len(key) <= _LONGEST else f"{key[:400]}=~{hashlib.sha256(key.encode()).hexdigest()}")
    return keys


def _escape(text: str) -> str:
    # The bytes of the name as the disk has it, which need not be Unicode.
    return "".join(chr(byte) if byte in _SAFE else f"={byte:02X}" for byte in os.fsencode(text))


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An image file as it was when it was listed, so that a change is noticed."""

    name: str  # its path below the folder, with forward slashes
    key: str  # its key; sub-images add their number
    file: str  # the file that holds it: the image, or the LMDB's
    state: tuple[int, int]  # the size and time of change of that file, by which a change is noticed


def list_sources(root: str | os.PathLike[str]) -> list[SourceFile]:
    """List the images of a folder with their keys, sorted by name.

    Raises:
        InputError: If there is none.
    """
    names = list_images(root)
    files = [os.path.join(root, name) for name in names]
    keyed = zip(names, keys_of(names), files, strict=True)
    return [SourceFile(name, key, file, state_of(file)) for name, key, file in keyed]


def state_of(path: str) -> tuple[int, int]:
    """The size and time of change of a file; (-1, -1) if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)  # such as a link to nothing, which fails when it is read
    return (status.st_size, status.st_mtime_ns)


def digest_of(sources: list[SourceFile]) -> dict[str, Any]:
    """The images in a plan: their number, and a hash of their names and states."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps([source.name, *source.state]).encode())
    return {"images": len(sources), "images_sha256": digest.hexdigest()}


@dataclass(frozen=True)
class Record:
    """The origin and the value of a key: a line of `keys.jsonl`."""

    key: str
    source: str  # the image file, relative to the folder that the LMDB is made of
    box: Box | None  # top, left, height, width of the part, EXIF orientation applied; None for all of the image
    h: int  # height, width and channels (alpha included: 1, 3 or 4) of the value's image
    w: int
    c: int
    bytes: int  # the size of the value
    sha256: str  # its hash


def to_line(record: Record) -> bytes:
    """Make the line of `keys.jsonl`."""
    return json.dumps(asdict(record)).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """Read a line of `keys.jsonl`.

    Raises:
        ValueError: If it is torn or none of ours.
    """
    if not line.endswith(b"\n"):
        raise ValueError("its end is missing")
    values = parse_record(line)
    try:
        return Record(**{**values, "box": values["box"] and tuple(values["box"])})
    except (KeyError, TypeError) as error:
        raise ValueError(f"no record of an LMDB: {line[:80]!r}") from error


def read_records(folder: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield the records in the `keys.jsonl` of an LMDB's folder.

    Raises:
        InputError: If the file cannot be read.
    """
    path = Path(folder) / KEYS_FILE
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield from_line(line)
                except ValueError as error:
                    raise InputError(f"{path}: line {number} is damaged ({error}); build the LMDB again") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); build the LMDB again") from error
