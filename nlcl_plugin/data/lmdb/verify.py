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
from nlcl_plugin.data.lmdb.create import META_FILE, read_skipped
from nlcl_plugin.data.lmdb.encode import shape_of
from nlcl_plugin.data.lmdb.keys import KEYS_FILE, Record, read_records
from nlcl_plugin.data.lmdb.store import LmdbImages, open_environment
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError

_META_SIZE = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)(?:\s+\d+)?\s*$")


@dataclass
class Verification:
    """What a check found."""

    values: int = 0  # the images or sub-images that `meta_info.txt` lists
    hashed: int = 0  # how many of them were compared with their hashes in `keys.jsonl`
    compared: int = 0  # how many of them were compared with their sources, pixel by pixel
    faults: list[str] = field(default_factory=list)  # what is wrong, one line each


def verify_lmdb(
    path: str | os.PathLike[str], *, against: str | os.PathLike[str] | None = None, jobs: int = 1
) -> Verification:
    """Check counts, that every value decodes, its size and hash, and its picture `against` the folder of the sources.

    Nothing is changed. Hashes, sources and the parts of cut images are known from `keys.jsonl` alone.

    Raises:
        InputError: If the LMDB cannot be opened, there is no such folder, or the sources of the values are not known.
    """
    path = os.path.expanduser(path)
    against = None if against is None else os.path.expanduser(against)
    images = LmdbImages(path)
    records = {one.key: one for one in read_records(path)} if os.path.exists(os.path.join(path, KEYS_FILE)) else None
    known = records or {}
    text = (Path(path) / META_FILE).read_text(encoding="utf-8-sig")
    sizes = [_META_SIZE.search(line) for line in text.split("\n") if line.strip()]
    # A grey image may have no third number.
    listed = {
        key: size and tuple(map(int, size.groups(default="1"))) for key, size in zip(images.names, sizes, strict=True)
    }
    found = Verification(values=len(listed), faults=_compare_lists(images, records))
    if against is not None:
        if records is None:
            raise InputError(f"{path}: has no {KEYS_FILE}, so its sources are not known; verify it without --against")
        sources = {one.source for one in records.values()}
        if sources and not any(os.path.exists(os.path.join(against, source)) for source in sources):
            raise InputError(f"{against}: contains none of the images that {path} is made of; give their folder")
        used = sources | {one.source for one in read_skipped(Path(path))}
        found.faults += [f"{name}: is not in the LMDB" for name in list_images(against) if name not in used]

    def check(group: list[str]) -> tuple[int, list[str]]:
        source, faults = None, []
        record = known.get(group[0])
        if against is not None and record is not None:
            name = os.path.join(against, record.source)
            try:
                source = to_uint16(decode_raw(read_bytes(name), name))
            except InputError as error:
                faults.append(str(error))
        checked = ((key, _fault_of(images, key, listed[key], known.get(key), source)) for key in group)
        faults += [f"key {key!r}: {fault}" for key, fault in checked if fault]
        return (0 if source is None else len(group)), faults

    found.hashed = len(listed.keys() & known.keys())
    # Sub-images of one image are neighbours, so that it is decoded once.
    groups = [list(group) for _, group in groupby(images.names, lambda key: known[key].source if key in known else key)]
    for compared, faults in map_in_order(check, groups, jobs=jobs, title="verifying"):
        found.compared += compared
        found.faults += faults
    return found


def _compare_lists(images: LmdbImages, records: dict[str, Record] | None) -> list[str]:
    stored, listed = len(open_environment(images.root)), set(images.names)
    faults = []
    if stored != len(listed):
        faults.append(f"data.mdb contains {stored} values, but {META_FILE} lists {len(listed)}")
    if records is not None:
        faults += [
            f"key {key!r} is in only one of {META_FILE} and {KEYS_FILE}" for key in sorted(listed ^ records.keys())
        ]
    return faults


def _fault_of(
    images: LmdbImages, key: str, size: tuple[int, ...] | None, record: Record | None, source: np.ndarray | None
) -> str:
    """What is wrong with a value; empty if nothing."""
    try:
        value = images.read(key)
        if record is not None and hashlib.sha256(value).hexdigest() != record.sha256:
            return f"has another hash than in {KEYS_FILE}; build the LMDB again"
        shape = shape_of(value, "the value")
        picture = None if source is None else decode_raw(value, "the value")
    except InputError as error:
        return str(error)
    listed = {META_FILE: size, KEYS_FILE: None if record is None else (record.h, record.w, record.c)}
    for file, expected in listed.items():
        if expected is not None and shape != expected:
            return f"is {shape}, but {expected} in {file}"
    if source is not None and picture is not None and record is not None:
        if record.box is not None:
            top, left, height, width = record.box
            source = source[top : top + height, left : left + width]
        if picture.dtype != source.dtype or not np.array_equal(picture, source):
            return f"shows another picture than {record.source}"
    return ""
