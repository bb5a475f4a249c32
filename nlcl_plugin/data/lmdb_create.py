"""Make an LMDB of a folder of images, in BasicSR's layout, whole and checked before it has its name."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.data.image_io import list_images, read_bytes
from nlcl_plugin.data.lmdb_building import (
    META_FILE,
    Batch,
    Building,
    Skipped,
    Source,
    check_replaceable,
    mend_swap,
    read_plan,
    read_skipped,
    remove,
    swap,
)
from nlcl_plugin.data.lmdb_encode import Cut, Encoded, encode_image
from nlcl_plugin.data.lmdb_keys import Record, keys_of, read_records
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError

# A kill loses a batch at most; a batch, and its copy in the transaction, are what is held in memory.
BATCH_BYTES = 64 << 20
BATCH_IMAGES = 256
_MAPPED_BYTES = 8 << 20  # read through one map when the values are checked


@dataclass
class Report:
    """What an LMDB holds and how it came to be.

    Attributes:
        images: The image files in it.
        values: Their images or sub-images.
        bytes: The size of these.
        skipped: The files that could not be read.
        already_made: Whether there was nothing to do.
        copied: The files that this run took byte for byte.
        encoded: The files that this run encoded.
        notes: How many files of this run were particular in some way, such as smaller than the crop.
    """

    images: int = 0
    values: int = 0
    bytes: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    already_made: bool = False
    copied: int = 0
    encoded: int = 0
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> int:
        """Of a command: 0, or 3 if images were skipped."""
        return 3 if self.skipped else 0


def create_lmdb(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    cut: Cut | None = None,
    jobs: int = 1,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    tell: Callable[[str], object] = print,
) -> Report:
    """Make an LMDB in BasicSR's layout of all images below a folder.

    A run that was killed is finished by the same call; the result is that of an uninterrupted run.

    Args:
        root: The folder of images.
        output: The LMDB, ending in `.lmdb`. It appears when it is whole; until then it is `X.lmdb.building`.
        cut: How to cut the images into sub-images; None leaves them whole.
        jobs: The number of threads.
        strict: Raise the error of an unreadable image instead of skipping it.
        overwrite: Make it anew if it is there, and replace it when the new one is whole.
        progress: False shows no progress bar, None shows one on a terminal.
        tell: Gets a line if an unfinished run is continued or given up.

    Returns:
        What was done.

    Raises:
        InputError: If no image can be read, an image changes meanwhile, the LMDB cannot be written, or its name is
            taken by something else.
    """
    # Shells leave a ~ in --output=~/x.lmdb as it is.
    root, output = os.path.expanduser(root), os.path.expanduser(output)
    target = _check_output(root, output)
    building = target.with_name(f"{target.name}.building")
    sources = list_sources(root)
    plan = _plan(sources, cut)
    report = Report()
    with _writing_to(output), locked(building):
        mend_swap(target)
        if target.exists() and not overwrite:
            return _already_made(target, plan, strict)
        check_replaceable(target)
        with Building(building, plan, tell) as unfinished:
            todo = sources[unfinished.position([source.name for source in sources]) :]
            for batch in _encode(todo, root, cut, jobs, strict, progress, report):
                unfinished.commit(batch)
        _count(building, report)
        if not report.values:
            remove(building)
            raise InputError(
                f"{root}: none of its {len(sources)} images can be read; the first, {report.skipped[0].source}, "
                + report.skipped[0].reason
            )
        _check_values(building, report.values, progress)
        _write_meta(building)
        swap(building, target)
    return report


def list_sources(root: str | os.PathLike[str]) -> list[Source]:
    """List the images of a folder with their keys.

    Args:
        root: The folder.

    Returns:
        The images, sorted by name.

    Raises:
        InputError: If there is none.
    """
    names = list_images(root)
    return [
        Source(name, key, _state_of(os.path.join(root, name))) for name, key in zip(names, keys_of(names), strict=True)
    ]


def _state_of(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)  # such as a link to nothing: the reading will say so
    return (status.st_size, status.st_mtime_ns)


def _changed(path: str) -> InputError:
    return InputError(f"{path}: changed while the LMDB was being made; run again when it is at rest")


def _check_output(root: str, output: str) -> Path:
    if Path(output).suffix != ".lmdb":
        raise InputError(f"{output}: expected a name that ends in .lmdb, by which readers know it; correct --output")
    target = Path(os.path.realpath(output))  # of a link, the folder itself: that is what is renamed
    if os.path.exists(target) and not os.path.isdir(target):
        raise InputError(f"{output}: is a file, expected a folder to be made; choose another --output")
    if Path(os.path.realpath(root)).is_relative_to(target):
        raise InputError(f"{output}: the images of {root} are in it; choose another --output")
    return target


def _plan(sources: list[Source], cut: Cut | None) -> dict[str, Any]:
    """All that decides the result."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps([source.name, *source.state]).encode())
    cutting = None if cut is None else asdict(cut)
    return {"format": 1, "cut": cutting, "images": len(sources), "images_sha256": digest.hexdigest()}


def _encode(
    sources: list[Source],
    root: str,
    cut: Cut | None,
    jobs: int,
    strict: bool,
    progress: bool | None,
    report: Report,
) -> Iterator[Batch]:
    def encode(source: Source) -> Encoded | InputError:
        path = os.path.join(root, source.name)
        result: Encoded | InputError
        try:
            result = encode_image(read_bytes(path), path, cut)
        except InputError as error:
            result = error
        if _state_of(path) != source.state:
            raise _changed(path)
        if strict and isinstance(result, InputError):
            raise result
        return result

    results = map_in_order(encode, sources, jobs=jobs, title="encoding", progress=progress)
    batch = Batch()
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, InputError):
            reason = str(result).removeprefix(f"{os.path.join(root, source.name)}: ")
            batch.skipped.append(Skipped(source.name, reason))
            continue
        batch.add(source, result, numbered=cut is not None)
        report.copied += result.copied
        report.encoded += not result.copied
        report.notes.update(result.notes)
        if batch.bytes >= BATCH_BYTES or batch.images >= BATCH_IMAGES:
            yield batch
            batch = Batch()
    yield batch


def _already_made(target: Path, plan: dict[str, Any], strict: bool) -> Report:
    if read_plan(target) != plan:
        raise InputError(
            f"{target}: exists, and is not made of these images with these settings; choose another --output, or give "
            "--overwrite to replace it"
        )
    report = Report(already_made=True)
    _count(target, report)
    if strict and report.skipped:
        raise InputError(f"{report.skipped[0].source}: {report.skipped[0].reason}")
    return report


def _count(folder: Path, report: Report) -> None:
    last = None
    for record in read_records(folder):
        report.images += record.source != last
        report.values += 1
        report.bytes += record.bytes
        last = record.source
    report.skipped = read_skipped(folder)


def _check_values(folder: Path, total: int, progress: bool | None) -> None:
    """Read every value back from the disk."""
    reader = _Reader(folder)
    try:
        # One thread: lmdb takes one environment of a path in a process, and this one is closed now and then.
        checks = map_in_order(
            reader.is_whole, read_records(folder), jobs=1, title="checking", total=total, progress=progress
        )
        if not all(list(checks)) or reader.entries() != total:
            raise InputError(f"{folder}: does not read back as it was written; remove this folder and run again")
    finally:
        reader.close()


class _Reader:
    """Reads an LMDB from end to end; the map is made anew now and then, or all that was read would stay in memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open()

    def _open(self) -> None:
        self._environment = lmdb.open(str(self._folder), readonly=True, lock=False, readahead=False)
        self._read = 0

    def is_whole(self, record: Record) -> bool:
        if self._read >= _MAPPED_BYTES:
            self._environment.close()
            self._open()
        self._read += record.bytes
        with self._environment.begin(buffers=True) as transaction:
            value = transaction.get(record.key.encode())
            return value is not None and hashlib.sha256(value).hexdigest() == record.sha256

    def entries(self) -> int:
        return int(self._environment.stat()["entries"])

    def close(self) -> None:
        self._environment.close()


def _write_meta(folder: Path) -> None:
    with written_whole(folder / META_FILE) as file:
        for record in read_records(folder):
            file.write(f"{record.key}.png ({record.h},{record.w},{record.c}) 1\n".encode("ascii"))


@contextmanager
def _writing_to(output: str) -> Iterator[None]:
    try:
        yield
    except (OSError, lmdb.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{output}: cannot be written ({reason}); make room or choose another place, then run it again"
        ) from error
