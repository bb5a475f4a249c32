"""Make the files of a plan: each arrives whole, and running an interrupted plan again makes those that are missing."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path

import numpy as np

from nlcl_plugin.data.files import remove_leftovers, sync_folder, write_whole
from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.data.image_io import decode_raw, read_bytes, to_float, to_uint8
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError, writing_to
from nlcl_plugin.pictures import save_montage
from nlcl_plugin.prepare.inspection import extract_frames, output_bytes
from nlcl_plugin.prepare.model import FOLDERS, OutputFile, Plan, examples

MANIFEST = "manifest.jsonl"
UNFINISHED = ".manifest.jsonl.part"  # the plan of an unfinished folder; becomes the manifest at the end
SUMMARY = "summary.png"
_EXAMPLES = 6  # images per folder in the summary


def check_output_folder(output: Path, plan: Plan | None = None) -> None:
    """Check that a folder is missing, contains only hidden files, or contains the preparation of a plan.

    Raises:
        InputError: If it contains anything else. Without a plan, any preparation passes.
    """
    try:
        foreign = sorted(name for name in os.listdir(output) if not name.startswith("."))
        saved = [path.read_bytes() for path in (output / MANIFEST, output / UNFINISHED) if path.is_file()]
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{output}: is not a usable folder ({error.strerror}); choose another --output") from error
    if foreign and not saved:
        raise InputError(
            f"{output}: contains files that are not of this preparation ({examples(foreign)}); choose an empty --output"
        )
    if saved and plan is not None and saved[0] != plan.manifest().encode():
        raise InputError(
            f"{output}: contains another preparation, or one of other options; remove it or choose another --output"
        )


def execute(plan: Plan, output: str | os.PathLike[str], *, copy: bool = False, jobs: int = 1) -> Counter[str]:
    """Make the files of a plan.

    A run that was killed is finished by running the same plan again. The folder is missing, empty, or of such a run.
    Unless `copy`, files are hard links where the file system allows it: to change one changes the source.

    Returns:
        How many files were `kept`, since they were there already, `linked`, and `written`.

    Raises:
        InputError: If the folder contains anything else (nothing is touched) or cannot be written, another run is
            writing to it, or a source changed since it was read.
    """
    output = Path(output)
    counts = Counter(kept=0, linked=0, written=0)
    # The frames of a video are read in one pass; every other file is on its own.
    groups = defaultdict(list)
    for item in plan.files:
        groups[("video", item.source.path) if item.source.is_frame else ("file", item.path)].append(item)
    with writing_to(output, advice="choose another --output"), locked(output, inside=True):
        check_output_folder(output, plan)
        if not (output / MANIFEST).exists():
            write_whole(output / UNFINISHED, plan.manifest().encode())
        for folder in FOLDERS.values():
            (output / folder).mkdir(exist_ok=True)
            remove_leftovers(output / folder)
        make = partial(_make_files, output=output, copy=copy)
        for done in map_in_order(make, groups.values(), jobs=jobs, title="writing"):
            counts.update(done)
        _save_summary(plan, output)
        for folder in FOLDERS.values():
            sync_folder(output / folder)
        if (output / UNFINISHED).exists():
            os.replace(output / UNFINISHED, output / MANIFEST)
            sync_folder(output)
    return counts


def _make_files(group: list[OutputFile], output: Path, copy: bool) -> dict[str, int]:
    missing = {file.source.part: file for file in group if not _is_made(file, output / file.path, copy)}
    counts = {"kept": len(group) - len(missing), "written": len(missing)}
    file = group[0]
    if file.source.is_frame:
        for part, data in extract_frames(file.source.path, list(missing)) if missing else ():
            _write_checked(missing.pop(part), output, data)
        if missing:
            raise _changed(file)
    elif missing and not file.source.part and not copy and _link(file, output / file.path):
        return {"linked": 1}
    elif missing:
        _write_checked(file, output, output_bytes(file.source))
    return counts


def _is_made(file: OutputFile, path: Path, copy: bool) -> bool:
    # Files get their name when they are whole, and the manifest has their hashes: the size is enough.
    if not path.is_file() or path.stat().st_size != file.facts.bytes:
        return False
    return not (copy and os.path.samefile(path, file.source.path))


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
    write_whole(output / file.path, data)


def _changed(file: OutputFile) -> InputError:
    return InputError(f"{file.source.label}: changed while it was being prepared; run again when nothing changes it")


def _save_summary(plan: Plan, output: Path) -> None:
    """Save a picture with a column of example images per folder."""
    columns = {}
    for key, folder in FOLDERS.items():
        if files := plan.of(*key):
            places = np.linspace(0, len(files) - 1, min(_EXAMPLES, len(files))).round().astype(int)
            images = [decode_raw(read_bytes(output / files[place].path), files[place].path) for place in places]
            shown = [image if image.dtype == np.uint8 else to_uint8(to_float(image)) for image in images]
            blank = np.full((1, 4, 3), 255, np.uint8)
            columns[f"{folder}: {len(files)}"] = shown + [blank] * (_EXAMPLES - len(shown))
    save_montage(str(output / SUMMARY), [dict(zip(columns, row, strict=True)) for row in zip(*columns.values())])  # noqa: B905
