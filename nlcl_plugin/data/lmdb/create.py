"""Make an LMDB of images, in BasicSR's layout, whole and checked before it has its name."""

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
from nlcl_plugin.data.lmdb.building import (
    META_FILE,
    Batch,
    Building,
    Skipped,
    SourceFile,
    check_replaceable,
    mend_swap,
    read_plan,
    read_skipped,
    remove,
    swap,
)
from nlcl_plugin.data.lmdb.encode import Cut, Encoded, encode_image
from nlcl_plugin.data.lmdb.keys import Record, keys_of, read_records
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError

# A kill loses a batch at most; a batch, and its copy in the transaction, are what is held in memory.
BATCH_BYTES = 64 << 20
BATCH_IMAGES = 256
_MAPPED_BYTES = 8 << 20  # read through one map when the values are checked


@dataclass
class BuildReport:
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


@dataclass(frozen=True)
class Recipe:
    """Of what an LMDB is made, and how.

    Attributes:
        root: Where the images are: a folder or an LMDB.
        sources: The images, sorted by name.
        encode: Makes the values of one, in any thread. An `InputError` leaves the image out.
        state_of: The state of one now, by which a change is noticed.
        plan: All that decides the result.
        numbered: Whether images are cut into sub-images, whose keys have numbers.
        title: What the progress bar says.
        batch_images: How many images a kill may lose.
        finish: Gets the folder when all values are in it, to put more files there (see `lmdb_building`) or to refuse
            them with an error.
    """

    root: str
    sources: list[SourceFile]
    encode: Callable[[SourceFile], Encoded]
    state_of: Callable[[SourceFile], tuple[int, int]]
    plan: dict[str, Any]
    numbered: bool = False
    title: str = "encoding"
    batch_images: int | None = None
    finish: Callable[[Path], object] = lambda folder: None


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
) -> BuildReport:
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
    folder, output = os.path.expanduser(root), os.path.expanduser(output)
    check_output(folder, output)

    def encode(source: SourceFile) -> Encoded:
        path = os.path.join(folder, source.name)
        return encode_image(read_bytes(path), path, cut)

    sources = list_sources(folder)
    recipe = Recipe(
        root=folder,
        sources=sources,
        encode=encode,
        state_of=lambda source: state_of(os.path.join(folder, source.name)),
        plan={"format": 1, "cut": None if cut is None else asdict(cut), **digest_of(sources)},
        numbered=cut is not None,
    )
    return build_lmdb(recipe, output, jobs=jobs, strict=strict, overwrite=overwrite, progress=progress, tell=tell)


def build_lmdb(
    recipe: Recipe,
    output: str,
    *,
    jobs: int = 1,
    strict: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    tell: Callable[[str], object] = print,
) -> BuildReport:
    """Make an LMDB by a recipe; see `create_lmdb` for all but that.

    Args:
        recipe: Of what, and how.
        output: The LMDB.
        jobs: The number of threads.
        strict: Raise the error of an unreadable image instead of skipping it.
        overwrite: Replace one that is there.
        progress: Whether to show a progress bar.
        tell: Gets lines about an unfinished run.

    Returns:
        What was done.

    Raises:
        InputError: As of `create_lmdb`.
    """
    root = recipe.root
    target = check_output(root, output)
    building = target.with_name(f"{target.name}.building")
    report = BuildReport()
    with _writing_to(output), locked(building):
        mend_swap(target)
        if target.exists() and not overwrite:
            return _already_made(target, recipe.plan, strict)
        check_replaceable(target)
        building.mkdir(exist_ok=True)
        with Building(building, recipe.plan, tell) as unfinished:
            todo = recipe.sources[unfinished.position([source.name for source in recipe.sources]) :]
            for batch in _encode(recipe, todo, jobs, strict, progress, report):
                unfinished.commit(batch)
        _count(building, report)
        if not report.values:
            remove(building)
            raise InputError(
                f"{root}: none of its {len(recipe.sources)} images can be read; the first, {report.skipped[0].source}, "
                + report.skipped[0].reason
            )
        _check_values(building, report.values, progress)
        _write_meta(building)
        recipe.finish(building)
        swap(building, target)
    return report


def list_sources(root: str | os.PathLike[str]) -> list[SourceFile]:
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
        SourceFile(name, key, state_of(os.path.join(root, name)))
        for name, key in zip(names, keys_of(names), strict=True)
    ]


def state_of(path: str) -> tuple[int, int]:
    """The size and time of change of a file; (-1, -1) if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)  # such as a link to nothing: the reading will say so
    return (status.st_size, status.st_mtime_ns)


def _changed(path: str) -> InputError:
    return InputError(f"{path}: changed while the LMDB was being made; run again when it is at rest")


def check_output(root: str, output: str) -> Path:
    """See that an LMDB can have a name.

    Args:
        root: Where its images are.
        output: The LMDB.

    Returns:
        Its folder, links resolved.

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


def digest_of(sources: list[SourceFile]) -> dict[str, Any]:
    """What a plan says of its images: their number, and a hash of their names and states."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps([source.name, *source.state]).encode())
    return {"images": len(sources), "images_sha256": digest.hexdigest()}


def _encode(
    recipe: Recipe, sources: list[SourceFile], jobs: int, strict: bool, progress: bool | None, report: BuildReport
) -> Iterator[Batch]:
    def encode(source: SourceFile) -> Encoded | InputError:
        result: Encoded | InputError
        try:
            result = recipe.encode(source)
        except InputError as error:
            result = error
        if recipe.state_of(source) != source.state:
            raise _changed(os.path.join(recipe.root, source.name))
        if strict and isinstance(result, InputError):
            raise result
        return result

    results = map_in_order(encode, sources, jobs=jobs, title=recipe.title, progress=progress)
    limit = BATCH_IMAGES if recipe.batch_images is None else recipe.batch_images
    batch = Batch()
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, InputError):
            reason = str(result).removeprefix(f"{os.path.join(recipe.root, source.name)}: ")
            batch.skipped.append(Skipped(source.name, reason))
            continue
        batch.add(source, result, numbered=recipe.numbered)
        report.copied += result.copied
        report.encoded += not result.copied
        report.notes.update(result.notes)
        if batch.bytes >= BATCH_BYTES or batch.images >= limit:
            yield batch
            batch = Batch()
    yield batch


def _already_made(target: Path, plan: dict[str, Any], strict: bool) -> BuildReport:
    if read_plan(target) != plan:
        raise InputError(
            f"{target}: exists, and is not made of these images with these settings; choose another --output, or give "
            "--overwrite to replace it"
        )
    report = BuildReport(already_made=True)
    _count(target, report)
    if strict and report.skipped:
        raise InputError(f"{report.skipped[0].source}: {report.skipped[0].reason}")
    return report


def _count(folder: Path, report: BuildReport) -> None:
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
        self._environment = lmdb.open(os.fsencode(self._folder), readonly=True, lock=False, readahead=False)
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
