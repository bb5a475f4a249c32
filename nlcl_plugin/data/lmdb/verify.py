"""Check an LMDB in BasicSR's layout, ours or another's, by itself and against the images that it is made of."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np

from nlcl_plugin.data.image_io import decode_raw, list_images, read_bytes, to_uint16
from nlcl_plugin.data.lmdb.building import META_FILE, read_skipped
from nlcl_plugin.data.lmdb.encode import shape_of
from nlcl_plugin.data.lmdb.keys import KEYS_FILE, Record, keys_of, read_records, whole_image_key
from nlcl_plugin.data.lmdb.store import LmdbImages, open_environment
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError

_META_SIZE = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)(?:\s+\d+)?\s*$")

Shape = tuple[int, ...]  # height, width, channels


@dataclass
class Verification:
    """What a check found.

    Attributes:
        values: The images or sub-images that `meta_info.txt` lists.
        hashed: How many of them were compared with their hashes in `keys.jsonl`.
        compared: How many of them were compared with their sources, pixel by pixel.
        not_comparable: How many of them have a source, but nothing says which part of it they are.
        faults: What is wrong, a line each.
    """

    values: int = 0
    hashed: int = 0
    compared: int = 0
    not_comparable: int = 0
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Entry:
    """What is known of a value; None for what is not."""

    key: str
    shape: Shape | None  # by meta_info.txt
    record: Record | None  # of keys.jsonl
    source: str | None = None  # to compare it with


def verify_lmdb(
    path: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    progress: bool | None = None,
) -> Verification:
    """Check counts, that every value decodes, its size and hash, and its picture if the sources are given.

    Nothing is changed. Hashes, and the parts of cut images, are known from `keys.jsonl`; without that file, keys are
    matched to the names of the sources.

    Args:
        path: The LMDB.
        against: The folder that it is made of.
        jobs: The number of threads.
        progress: False shows no progress bar, None shows one on a terminal.

    Returns:
        What was found.

    Raises:
        InputError: If the LMDB cannot be opened, or there is no such folder.
    """
    path = os.path.expanduser(path)
    against = None if against is None else os.path.expanduser(against)
    images = LmdbImages(path)
    records = {one.key: one for one in read_records(path)} if os.path.exists(os.path.join(path, KEYS_FILE)) else None
    shapes = _meta_shapes(Path(path) / META_FILE)
    entries = [_Entry(key, shape, (records or {}).get(key)) for key, shape in zip(images.keys, shapes, strict=True)]
    found = Verification(values=len(entries), faults=_compare_lists(images, records))
    if against is not None:
        entries = _find_sources(entries, list_images(against), {one.source for one in read_skipped(Path(path))}, found)

    def check(group: list[_Entry]) -> Verification:
        part = Verification()
        source = None
        if against is not None and group[0].source is not None:
            try:
                source = _read_source(os.path.join(against, group[0].source))
            except InputError as error:
                part.faults.append(str(error))
        for entry in group:
            fault = _fault_of(images, entry, source)
            if fault:
                part.faults.append(f"key {entry.key!r}: {fault}")
            part.hashed += entry.record is not None
            part.compared += source is not None
        return part

    # Sub-images of one image stand together, so that it is decoded once.
    groups = [list(group) for _, group in groupby(entries, key=lambda entry: entry.source or entry.key)]
    for part in map_in_order(check, groups, jobs=jobs, title="verifying", progress=progress):
        found.hashed += part.hashed
        found.compared += part.compared
        found.faults += part.faults
    return found


def _meta_shapes(path: Path) -> list[Shape | None]:
    """The shape in each line; a grey image may have no third number."""
    lines = [line for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    matches = [_META_SIZE.search(line) for line in lines]
    return [tuple(int(number) for number in match.groups(default="1")) if match else None for match in matches]


def _compare_lists(images: LmdbImages, records: dict[str, Record] | None) -> list[str]:
    stored, listed = len(open_environment(images.path)), set(images.keys)
    faults = []
    if stored != len(listed):
        faults.append(f"data.mdb holds {stored} values, but {META_FILE} lists {len(listed)}")
    if records is not None:
        faults += [
            f"key {key!r} is in {META_FILE}, but not in {KEYS_FILE}" for key in images.keys if key not in records
        ]
        faults += [f"key {key!r} is in {KEYS_FILE}, but not in {META_FILE}" for key in records if key not in listed]
    return faults


def _find_sources(entries: list[_Entry], names: list[str], skipped: set[str], found: Verification) -> list[_Entry]:
    """Say of each value which image it is compared with; report images that are missing or left over."""
    by_key: dict[str, set[str]] = {}
    for name, key in zip(names, keys_of(names), strict=True):
        for candidate in (key, os.path.splitext(name)[0]):  # ours, and what stock scripts take
            by_key.setdefault(candidate, set()).add(name)
    present = set(names)
    used = set(skipped)
    matched = []
    for entry in entries:
        source = None
        if entry.record is not None:
            sources = {entry.record.source} & present
            source = entry.record.source if sources else None
        else:
            sources = by_key.get(entry.key, set())
            if len(sources) == 1:
                (source,) = sources
            elif whole := whole_image_key(entry.key):
                sources = sources or by_key.get(whole, set())
        if not sources:
            origin = f"its source {entry.record.source} is" if entry.record else "an image of this name is"
            found.faults.append(f"key {entry.key!r}: {origin} missing")
        elif source is None:
            found.not_comparable += 1
        used |= sources
        matched.append(_Entry(entry.key, entry.shape, entry.record, source))
    found.faults += [f"{name}: is not in the LMDB" for name in names if name not in used]
    return matched


def _read_source(path: str) -> np.ndarray:
    return to_uint16(decode_raw(read_bytes(path), path))


def _fault_of(images: LmdbImages, entry: _Entry, source: np.ndarray | None) -> str:
    """What is wrong with a value; empty if nothing."""
    label = "the value"
    try:
        value = images.get(entry.key)
        if entry.record is not None and hashlib.sha256(value).hexdigest() != entry.record.sha256:
            return f"has another hash than in {KEYS_FILE}; build the LMDB again"
        shape = shape_of(value, label)
        picture = None if source is None else decode_raw(value, label)
    except InputError as error:
        return str(error)
    if entry.shape is not None and shape != entry.shape:
        return f"is {_words(shape)}, but {_words(entry.shape)} in {META_FILE}"
    if entry.record is not None and shape != (entry.record.h, entry.record.w, entry.record.c):
        return f"is {_words(shape)}, but not in {KEYS_FILE}"
    if source is not None:
        if entry.record is not None and entry.record.box is not None:
            top, left, height, width = entry.record.box
            source = source[top : top + height, left : left + width]
        if picture is None or picture.dtype != source.dtype or not np.array_equal(picture, source):
            return f"shows another picture than {entry.source}"
    return ""


def _words(shape: Shape) -> str:
    return f"({','.join(map(str, shape))})"
