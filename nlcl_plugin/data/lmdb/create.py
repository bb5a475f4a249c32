"""Make an LMDB of images, in BasicSR's layout, whole before it has its name.

It is built in `X.lmdb.building`. A batch of images goes into `data.mdb`, and only when it is on the disk, its lines go
into `keys.jsonl`: what that file lists is there. `build.json` has the plan, the images and settings that decide the
result; a run with the same plan continues where a kill has stopped the one before.
"""

from __future__ import annotations

import bisect
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lmdb

from nlcl_plugin.data.files import parse_record, remove_leftovers, sync_folder, write_whole, written_whole
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.data.image_io import read_bytes
from nlcl_plugin.data.lmdb.encode import Cut, Value, encode_image
from nlcl_plugin.data.lmdb.keys import (
    KEYS_FILE,
    Record,
    SourceFile,
    digest_of,
    from_line,
    list_sources,
    read_records,
    state_of,
    to_line,
)
from nlcl_plugin.data.lmdb.store import check_length, close_environment
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError, print_line, writing_to

# A kill loses a batch at most; a batch, and its copy in the transaction, are in memory.
BATCH_BYTES = 64 << 20
BATCH_IMAGES = 256
FIRST_MAP_BYTES = 1 << 28  # room in the address space, not on the disk; doubled when it is full

META_FILE = "meta_info.txt"
SKIPPED_FILE = "skipped.jsonl"
# Of a bank of rain layers: where it came from, and a picture of some.
BANK_FILE = "rain_bank.json"
SHEET_FILE = "rain_bank.png"
_BUILD_FILE = "build.json"
_FILES = {"data.mdb", "lock.mdb", META_FILE, KEYS_FILE, SKIPPED_FILE, _BUILD_FILE, BANK_FILE, SHEET_FILE}


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read, and why."""

    source: str
    reason: str


@dataclass
class BuildReport:
    """What an LMDB contains and how it was made."""

    images: int = 0  # the image files in it
    values: int = 0  # their images or sub-images
    bytes: int = 0  # the size of these
    skipped: list[Skipped] = field(default_factory=list)  # the files that could not be read
    already_made: bool = False  # whether there was nothing to do


@dataclass(frozen=True)
class Recipe:
    """Of what an LMDB is made, and how."""

    root: str  # where the images are: a folder or an LMDB
    sources: list[SourceFile]  # the images, sorted by name
    encode: Callable[[SourceFile], list[Value]]  # makes the values of one, in any thread; an `InputError` leaves it out
    plan: dict[str, Any]  # all that decides the result
    batch_images: int  # how many images a kill may lose
    numbered: bool = False  # whether images are cut into sub-images, whose keys have numbers
    jobs: int = 1  # the number of threads
    strict: bool = False  # raise the error of an unreadable image instead of skipping it
    title: str = "encoding"  # of the progress bar
    # Gets the folder when all values are in it, to add files (see `_FILES`) or to refuse it by an error.
    finish: Callable[[Path], object] = lambda folder: None


def create_lmdb(
    root: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    cut: Cut | None = None,
    jobs: int = 1,
    strict: bool = False,
    overwrite: bool = False,
) -> BuildReport:
    """Make an LMDB in BasicSR's layout of all images below a folder.

    A run that was killed is finished by the same call; the result is that of an uninterrupted run.

    Args:
        root: The folder of images.
        output: The LMDB, ending in `.lmdb`. It appears when it is whole; until then it is `X.lmdb.building`.
        cut: How to cut the images into sub-images; None leaves them whole.
        jobs: The number of threads.
        strict: Raise the error of an unreadable image instead of skipping it.
        overwrite: Build it again if it exists; the new one replaces it when it is complete.

    Raises:
        InputError: If no image can be read, an image changes meanwhile, the LMDB cannot be written, or its name is
            taken by something else.
    """
    folder = os.path.expanduser(root)  # shells leave a ~ in --output=~/x.lmdb as it is
    sources = list_sources(folder)

    def encode(source: SourceFile) -> list[Value]:
        return encode_image(read_bytes(source.file), source.file, cut)

    recipe = Recipe(
        root=folder,
        sources=sources,
        encode=encode,
        plan={"format": 1, "cut": None if cut is None else asdict(cut), **digest_of(sources)},
        batch_images=BATCH_IMAGES,
        numbered=cut is not None,
        jobs=jobs,
        strict=strict,
    )
    return build_lmdb(recipe, os.path.expanduser(output), overwrite=overwrite)


def build_lmdb(recipe: Recipe, output: str, *, overwrite: bool) -> BuildReport:
    """Make an LMDB by a recipe; see `create_lmdb` for the rest."""
    target = check_output(recipe.root, output)
    folder = target.with_name(f"{target.name}.building")
    replaced = target.with_name(f"{target.name}.replaced")
    advice = "choose another place, then run it again"
    with writing_to(output, lmdb.Error, advice=advice), locked(folder):
        # After a kill within the swap below: the former LMDB goes back, or away if the new one is there.
        if target.exists():
            remove(replaced)
        elif replaced.exists():
            os.rename(replaced, target)
        if target.exists():
            if not overwrite:
                return _already_made(target, recipe)
            if foreign := _foreign(target):
                found = f"contains {foreign[0]}, so it is not an LMDB to replace"
                raise InputError(f"{target}: {found}; choose another --output")
        folder.mkdir(exist_ok=True)
        with _opened(folder, recipe.plan) as environment:
            start = _resume(folder, [source.name for source in recipe.sources])
            if start:
                print_line(f"{folder}: continued at image {start + 1} of {len(recipe.sources)}")
            for batch in _encode(recipe, recipe.sources[start:]):
                _commit(environment, folder, batch)
        report = _count(folder)
        if not report.values:
            remove(folder)
            raise InputError(
                f"{recipe.root}: none of its {len(recipe.sources)} images can be read; the first, "
                f"{report.skipped[0].source}, {report.skipped[0].reason}"
            )
        with written_whole(folder / META_FILE) as file:
            for record in read_records(folder):
                file.write(f"{record.key}.png ({record.h},{record.w},{record.c}) 1\n".encode("ascii"))
        recipe.finish(folder)
        sync_folder(folder)
        if target.exists():
            close_environment(target)
            os.rename(target, replaced)
        os.rename(folder, target)
        sync_folder(target.parent)
        remove(replaced)
    return report


def check_output(root: str, output: str) -> Path:
    """See that an LMDB of the images of `root` can have the name `output`; returns its folder, links resolved.

    Raises:
        InputError: If it cannot.
    """
    if Path(output).suffix != ".lmdb":
        raise InputError(f"{output}: expected a name that ends in .lmdb, by which readers know it; correct --output")
    target = Path(os.path.realpath(output))  # of a link, the folder itself: that is what is renamed
    if os.path.exists(target) and not os.path.isdir(target):
        raise InputError(f"{output}: is a file, expected a folder to be made; choose another --output")
    if Path(os.path.realpath(root)).is_relative_to(target):
        raise InputError(f"{output}: the images of {root} are in it; choose another --output")
    return target


def read_skipped(folder: Path) -> list[Skipped]:
    """Return the images that were left out of an LMDB, as they could not be read.

    Raises:
        InputError: If the file that lists them is damaged.
    """
    path = folder / SKIPPED_FILE
    try:
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # a line without an end is torn
        return [Skipped(**json.loads(line)) for line in lines]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: is damaged ({error}); build the LMDB again") from error


def remove(folder: Path) -> None:
    """Remove an LMDB, if it is there.

    Raises:
        InputError: If the folder contains anything else.
    """
    if folder.exists():
        _empty(folder)
        folder.rmdir()


def _empty(folder: Path) -> None:
    if foreign := _foreign(folder):
        raise InputError(f"{folder}: contains {foreign[0]}, which is not of an LMDB; move it away and run again")
    # The plan first: a kill must not leave it with only some of the other files.
    (folder / _BUILD_FILE).unlink(missing_ok=True)
    for name in os.listdir(folder):
        (folder / name).unlink()


def _foreign(folder: Path) -> list[str]:
    """What no LMDB has: other names, and folders."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.name not in _FILES or entry.is_dir())


def _read_plan(folder: Path) -> dict[str, Any] | None:
    try:
        return parse_record((folder / _BUILD_FILE).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


@contextmanager
def _opened(folder: Path, plan: dict[str, Any]) -> Iterator[lmdb.Environment]:
    """Open an unfinished LMDB for writing: that of a stopped run of the same plan, or a new one."""
    remove_leftovers(folder)
    resumed = _read_plan(folder) == plan
    if not resumed:
        if (folder / _BUILD_FILE).exists():
            print_line(f"{folder}: was begun with other images or settings; it is built anew")
        _empty(folder)
    # No lock file: no other run is at work, and where it does not fit on a disk, writing to it kills the process.
    with lmdb.open(os.fsencode(folder), map_size=FIRST_MAP_BYTES, meminit=False, lock=False) as environment:
        check_length(environment, folder)
        if not resumed:  # last, as it marks the database as more than a file that was just being made
            write_whole(folder / _BUILD_FILE, json.dumps(plan).encode() + b"\n")
        yield environment


def _resume(folder: Path, names: list[str]) -> int:
    """Return the index of the first image to make, and forget what is listed from there on.

    The last image listed is made again: of its sub-images, some lines may be missing.
    """
    last, start, offset = "", 0, 0  # the last image listed, where its lines start, where the line read ends
    if (folder / KEYS_FILE).exists():
        with (folder / KEYS_FILE).open("rb") as file:
            for line in file:
                try:
                    record = from_line(line)
                except ValueError:
                    break  # torn by the kill
                if record.source != last:
                    last, start = record.source, offset
                offset += len(line)
        os.truncate(folder / KEYS_FILE, start)
    if (folder / SKIPPED_FILE).exists():
        kept = [skipped for skipped in read_skipped(folder) if skipped.source < last]
        write_whole(folder / SKIPPED_FILE, _lines(kept))
    return bisect.bisect_left(names, last)


@dataclass
class _Batch:
    """Images that are written in one transaction."""

    values: list[tuple[Record, bytes]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    images: int = 0
    bytes: int = 0


def _encode(recipe: Recipe, sources: list[SourceFile]) -> Iterator[_Batch]:
    def encode(source: SourceFile) -> list[Value] | InputError:
        try:
            return recipe.encode(source)
        except InputError as error:
            if recipe.strict:
                raise
            return error
        finally:  # a change is the cause of whatever else went wrong
            if state_of(source.file) != source.state:
                path = os.path.join(recipe.root, source.name)
                raise InputError(f"{path}: changed while the LMDB was being made; run again when nothing changes it")

    results = map_in_order(encode, sources, jobs=recipe.jobs, title=recipe.title)
    batch = _Batch()
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, InputError):
            reason = str(result).removeprefix(f"{os.path.join(recipe.root, source.name)}: ")
            batch.skipped.append(Skipped(source.name, reason))
            continue
        for number, value in enumerate(result, start=1):
            key = f"{source.key}_s{number:03d}" if recipe.numbered else source.key  # as BasicSR names sub-images
            record = Record(key, source.name, value.box, *value.shape, len(value.data), value.sha256)
            batch.values.append((record, value.data))
            batch.bytes += record.bytes
        batch.images += 1
        if batch.bytes >= BATCH_BYTES or batch.images >= recipe.batch_images:
            yield batch
            batch = _Batch()
    yield batch


def _commit(environment: lmdb.Environment, folder: Path, batch: _Batch) -> None:
    """Write a batch to the disk, then list it."""
    while True:
        try:
            with environment.begin(write=True) as transaction:
                for record, data in batch.values:
                    transaction.put(record.key.encode(), data)
            break
        except lmdb.MapFullError:  # which has undone the whole batch
            environment.set_mapsize(2 * environment.info()["map_size"])
    # The skipped first: a listed image means that all before it are settled.
    if batch.skipped:
        _append(folder / SKIPPED_FILE, _lines(batch.skipped))
    _append(folder / KEYS_FILE, b"".join(to_line(record) for record, _ in batch.values))


def _lines(skipped: list[Skipped]) -> bytes:
    return b"".join(json.dumps(asdict(one)).encode() + b"\n" for one in skipped)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _already_made(target: Path, recipe: Recipe) -> BuildReport:
    if _read_plan(target) != recipe.plan:
        raise InputError(
            f"{target}: exists, and is not made of these images with these settings; choose another --output, or give "
            "--overwrite to replace it"
        )
    report = _count(target)
    report.already_made = True
    if recipe.strict and report.skipped:
        raise InputError(f"{report.skipped[0].source}: {report.skipped[0].reason}")
    return report


def _count(folder: Path) -> BuildReport:
    report, last = BuildReport(skipped=read_skipped(folder)), None
    for record in read_records(folder):
        report.images += record.source != last
        report.values += 1
        report.bytes += record.bytes
        last = record.source
    return report
