"""Make the files of a plan: each arrives whole, and an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from nlcl_plugin.data.files import remove_leftovers, sha256, sync_folder, written_whole
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.data.image_io import decode_raw, read_bytes, to_float, to_uint8
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError
from nlcl_plugin.pictures import save_montage
from nlcl_plugin.prepare.frames import extract_frames
from nlcl_plugin.prepare.inspection import output_bytes
from nlcl_plugin.prepare.model import FOLDERS, OutputFile, Plan, examples

MANIFEST = "manifest.jsonl"
SUMMARY = "summary.png"
JOURNAL = ".manifest.jsonl.part"  # the plan of an unfinished folder; becomes the manifest at the end
FACTS = ".facts.jsonl"  # see `FactsRecord`; stays for the next run
_EXAMPLES = 6  # images per folder in the summary


def saved_plan(output: Path) -> bytes | None:
    """The manifest in a folder, finished or not; None if it contains no preparation."""
    for path in (output / MANIFEST, output / JOURNAL):
        if path.is_file() and not path.is_symlink():
            return path.read_bytes()
    return None


def check_output_folder(output: Path, plan: Plan | None = None) -> None:
    """Check that a folder is missing, contains only hidden files, or contains the preparation of a plan.

    Raises:
        InputError: If it contains anything else. Without a plan, any preparation passes.
    """
    try:
        names = os.listdir(output)
        saved = saved_plan(output)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{output}: is no folder to write to ({error.strerror}); choose another --output") from error
    # A link in the place of one of our folders would lead the writing out of the output.
    linked = [name for name in FOLDERS.values() if (output / name).is_symlink()]
    foreign = sorted(name for name in names if not name.startswith(".")) if saved is None else linked
    if foreign:
        raise InputError(
            f"{output}: contains files that are not of this preparation ({examples(foreign)}); choose an empty --output"
        )
    if saved is not None and plan is not None and saved != plan.manifest().encode():
        raise InputError(
            f"{output}: contains another preparation, or one of other options; remove it or choose another --output"
        )


@contextmanager
def writing_to(output: Path) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and remove what a killed one left half-written.

    Raises:
        InputError: If it cannot be made or written, or another run is writing to it.
    """
    try:
        with locked(output, inside=True):
            for folder in (output, *(output / name for name in FOLDERS.values())):
                remove_leftovers(folder)
            yield
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error}); make room or choose another --output") from error


def execute(plan: Plan, output: str | os.PathLike[str], *, copy: bool = False, jobs: int = 1) -> Counter[str]:
    """Make the files of a plan.

    A run that was killed is finished by running the same plan again; the result is that of an uninterrupted run.

    Args:
        plan: The plan.
        output: The folder: missing, empty, or of an earlier run of the same plan.
        copy: Copy files. By default they are hard links where the file system allows it: to change one changes the
            source.
        jobs: The number of threads.

    Returns:
        How many files were `kept`, since they were there already, `linked`, and `written`.

    Raises:
        InputError: If the folder contains anything else (nothing is touched), or a source changed since it was read.
    """
    output = Path(output)
    check_output_folder(output, plan)  # before anything is touched
    with writing_to(output):
        check_output_folder(output, plan)  # another run may have been faster
        finished = (output / MANIFEST).exists()
        if not finished:
            with written_whole(output / JOURNAL) as file:
                file.write(plan.manifest().encode())
        for folder in FOLDERS.values():
            (output / folder).mkdir(exist_ok=True)
        # The frames of a video are read in one pass; every other file is on its own.
        groups = defaultdict(list)
        for item in plan.files:
            groups[("video", item.source.path) if item.source.is_frame else ("file", item.path)].append(item)
        counts = Counter(kept=0, linked=0, written=0)
        make_group = partial(_make_files, output=output, copy=copy)
        for done in map_in_order(make_group, groups.values(), jobs=jobs, title="writing"):
            counts.update(done)
        _save_summary(plan, output)
        for folder in FOLDERS.values():
            sync_folder(output / folder)
        if not finished:
            os.replace(output / JOURNAL, output / MANIFEST)
            sync_folder(output)
    return counts


def _make_files(group: list[OutputFile], output: Path, copy: bool) -> list[str]:
    missing = {file.source.part: file for file in group if not _is_made(file, output / file.path, copy)}
    done = ["kept"] * (len(group) - len(missing)) + ["written"] * len(missing)
    if not missing:
        return done
    file = next(iter(missing.values()))
    if file.source.is_frame:
        for part, data in extract_frames(file.source.path, list(missing)):
            _write_checked(missing.pop(part), output, data)
        if missing:
            raise _changed(file)
    elif not file.source.part and not copy and _link(file, output / file.path):
        return ["linked"]
    else:
        _write_checked(file, output, output_bytes(file.source))
    return done


def _is_made(file: OutputFile, path: Path, copy: bool) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != file.facts.bytes:
        return False
    if os.path.exists(file.source.path) and os.path.samefile(path, file.source.path):
        return not copy and path.stat().st_mtime_ns == file.facts.modified
    return sha256(path) == file.facts.sha256


def _link(file: OutputFile, path: Path) -> bool:
    # On Linux, a link to a symbolic link would be one more symbolic link: the file itself is wanted.
    source = os.path.realpath(file.source.path)
    try:
        status = os.stat(source)
        if (status.st_size, status.st_mtime_ns) != (file.facts.bytes, file.facts.modified):
            raise _changed(file)
        path.unlink(missing_ok=True)
        os.link(source, path)
    except OSError:  # another file system, or one without links, or too many of them
        return False
    return True


def _write_checked(file: OutputFile, output: Path, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != file.facts.sha256:
        raise _changed(file)
    with written_whole(output / file.path) as temporary:
        temporary.write(data)


def _changed(file: OutputFile) -> InputError:
    return InputError(f"{file.source.label}: changed while it was being prepared; run again when it is at rest")


def _save_summary(plan: Plan, output: Path) -> None:
    """Save a picture with a column of example images per folder."""
    blank = np.full((1, 4, 3), 255, np.uint8)
    columns = {}
    for key, folder in FOLDERS.items():
        files = plan.of(*key)
        places = np.linspace(0, len(files) - 1, min(_EXAMPLES, len(files))).round().astype(int)
        images = [decode_raw(read_bytes(output / files[place].path), files[place].path) for place in places]
        if images:
            shown = [image if image.dtype == np.uint8 else to_uint8(to_float(image)) for image in images]
            columns[f"{folder}: {len(files)}"] = shown + [blank] * (_EXAMPLES - len(shown))
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    save_montage(str(output / SUMMARY), rows)
