"""The keys of an LMDB that is made of a folder, and the file beside `meta_info.txt` that says what each key is."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nlcl_plugin.errors import InputError

KEYS_FILE = "keys.jsonl"

Box = tuple[int, int, int, int]  # top, left, height, width

# LMDB takes keys of 511 bytes; this leaves room for `_s001` and beyond.
_LONGEST = 490
_SAFE = frozenset(range(0x21, 0x7F)) - set(b".=")
_SUB_IMAGE = re.compile(r"(?P<key>.+)_s\d{3,}", re.DOTALL)


def keys_of(names: list[str]) -> list[str]:
    """Make a key for each image of a folder, in ASCII and without dots and blanks, as stock readers need it.

    A key is the name without its ending, with its sub-folders. Every other byte, and `=`, becomes `=` and two hex
    digits; where names differ in their endings alone, these are kept (`a==png`, `a==jpg`); a name too long for LMDB
    is cut, and its hash put behind `=~`. So different names always get different keys.

    Args:
        names: Paths below the folder, with forward slashes and endings, all different.

    Returns:
        The keys, in the same order.
    """
    stems = [os.path.splitext(name)[0] for name in names]
    counts = Counter(stems)
    endings = [name[len(stem) + 1 :] if counts[stem] > 1 else "" for name, stem in zip(names, stems, strict=True)]
    return [safe_key(stem, ending) for stem, ending in zip(stems, endings, strict=True)]


def safe_key(stem: str, ending: str = "") -> str:
    """Make the key of one image; see `keys_of`.

    Args:
        stem: Its path without the ending.
        ending: The ending, where it has to be told from another image.

    Returns:
        The key.
    """
    key = _escape(stem) + (f"=={_escape(ending)}" if ending else "")
    if len(key) <= _LONGEST:
        return key
    return f"{key[:400]}=~{hashlib.sha256(key.encode()).hexdigest()}"


def _escape(text: str) -> str:
    # The bytes of the name as the disk has it, which need not be Unicode.
    return "".join(chr(byte) if byte in _SAFE else f"={byte:02X}" for byte in os.fsencode(text))


def sub_image_key(key: str, number: int) -> str:
    """Make the key of a sub-image as BasicSR names it: `{key}_s001`, counted from 1."""
    return f"{key}_s{number:03d}"


def whole_image_key(key: str) -> str | None:
    """Return the key of the image that a sub-image is of; None if the key is not that of a sub-image."""
    match = _SUB_IMAGE.fullmatch(key)
    return match["key"] if match else None


@dataclass(frozen=True)
class Record:
    """What an LMDB has under a key: a line of `keys.jsonl`.

    Attributes:
        key: The key.
        source: The image file, relative to the folder that the LMDB is made of.
        box: The part of the image (as seen, EXIF orientation applied): top, left, height, width. None for all of it.
        h: The height of the value's image.
        w: Its width.
        c: Its channels, alpha included: 1, 3 or 4.
        bytes: The size of the value.
        sha256: The value's hash.
    """

    key: str
    source: str
    box: Box | None
    h: int
    w: int
    c: int
    bytes: int
    sha256: str


_FIELDS = {field.name for field in fields(Record)}


def to_line(record: Record) -> bytes:
    """Make the line of `keys.jsonl`."""
    return json.dumps(asdict(record)).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """Read a line of `keys.jsonl`.

    Raises:
        ValueError: If it is torn or none of ours.
    """
    try:
        values = json.loads(line)
    except RecursionError as error:
        raise ValueError("no record of an LMDB, but nested") from error
    if not line.endswith(b"\n") or not isinstance(values, dict) or not _is_record(values):
        raise ValueError(f"no record of an LMDB: {line[:80]!r}")
    return Record(**{**values, "box": values["box"] and tuple(values["box"])})


def _is_record(values: dict[str, Any]) -> bool:
    def counts(*numbers: Any) -> bool:
        return all(type(number) is int and 0 <= number < 1 << 63 for number in numbers)

    if set(values) != _FIELDS or not all(type(values[name]) is str for name in ("key", "source", "sha256")):
        return False
    box = values["box"]
    return (
        values["key"].isascii()
        and counts(*(values[name] for name in ("h", "w", "c", "bytes")))
        and (box is None or (type(box) is list and len(box) == 4 and counts(*box)))
    )


def read_records(folder: str | os.PathLike[str]) -> Iterator[Record]:
    """Read the `keys.jsonl` of an LMDB, line by line.

    Args:
        folder: The LMDB's folder.

    Yields:
        The records.

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
