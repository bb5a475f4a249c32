"""Make the files of a plan: each arrives whole, and an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.data.prepare import frames
from nlcl_plugin.data.prepare.contact_sheet import draw_summary
from nlcl_plugin.data.prepare.inspection import produce
from nlcl_plugin.data.prepare.model import FOLDERS, Item, Plan, Report, escape, examples
from nlcl_plugin.errors import InputError

MANIFEST = "manifest.jsonl"
SUMMARY = "summary.png"
_JOURNAL = ".manifest.jsonl.part"  # says whose an unfinished folder is; becomes the manifest at the end
_TEMPORARY = re.compile(r"\.prepare-[0-9a-f]{32}\.tmp")


def execute(
    plan: Plan, output: str | os.PathLike[str], *, copy: bool = False, jobs: int = 1, progress: bool | None = None
) -> Report:
    """Make the files of a plan.

    A run that was killed is finished by running the same plan again; the result is that of an uninterrupted run.

    Args:
        plan: The plan.
        output: The folder: missing, empty, or of an earlier run of the same plan.
        copy: Copy files. By default they are hard links where the file system allows it: to change one changes the
            source.
        jobs: The number of threads.
        progress: False shows no progress bar, None shows one on a terminal.

    Returns:
        What was done.

    Raises:
        InputError: If the folder holds anything else (nothing is touched), or a source changed since it was read.
    """
    output = Path(output)
    check_output(plan, output)
    try:
        for folder in FOLDERS.values():
            (output / folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made ({error.strerror}); choose another --output") from error
    with _locked(output):
        for place_of_files in (output, *(output / name for name in FOLDERS.values())):
            for leftover in place_of_files.iterdir():
                if _TEMPORARY.fullmatch(leftover.name):
                    leftover.unlink()
        manifest = plan.manifest().encode()
        finished = (output / MANIFEST).exists()
        if not finished:
            _write(output / _JOURNAL, manifest)
        report = Report(plan)

        def place(group: list[Item]) -> list[str]:
            return list(_place(group, output, copy))

        for done in map_in_order(place, _groups(plan), jobs=jobs, title="writing", progress=progress):
            for kind in done:
                setattr(report, kind, getattr(report, kind) + 1)
        _write(output / SUMMARY, draw_summary(plan, output))
        if not finished:
            os.replace(output / _JOURNAL, output / MANIFEST)
    return report


def check_output(plan: Plan, output: Path) -> None:
    """See that a folder holds nothing but what this plan makes.

    Raises:
        InputError: If it does, or lies within a source.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file, expected a folder to be made; choose another --output")
    if not output.exists():
        return
    manifest = plan.manifest().encode()
    ours = None
    for name in (MANIFEST, _JOURNAL):
        path = output / name
        if path.is_file() and not path.is_symlink():
            ours = path.read_bytes() == manifest
            break
    known = {item.path for item in plan.items} | {MANIFEST, SUMMARY, _JOURNAL} if ours else set()
    foreign = []
    for current, folders, files in os.walk(output):
        relative = Path(current).relative_to(output).as_posix()
        prefix = "" if relative == "." else relative + "/"
        entries = [prefix + name for name in files if not _TEMPORARY.fullmatch(name)]
        foreign += [name for name in entries if name not in known]
        # A link to a folder is listed as a folder, but is none of ours.
        foreign += [
            prefix + name for name in folders if prefix or name not in FOLDERS.values() or (output / name).is_symlink()
        ]
    if ours is False:
        raise InputError(
            f"{output}: holds another preparation, or one of other options or sources; remove it or choose another "
            "--output"
        )
    if foreign:
        raise InputError(
            escape(f"{output}: holds files that are not of this preparation ({examples(sorted(foreign))}); ")
            + "choose an empty --output"
        )


def _groups(plan: Plan) -> list[list[Item]]:
    # The frames of a video are read in one pass; all else is on its own.
    groups: dict[str, list[Item]] = {}
    for item in plan.items:
        is_frame = item.source.part.startswith("frame=")
        groups.setdefault(f"video {item.source.path}" if is_frame else f"file {item.path}", []).append(item)
    return list(groups.values())


def _place(group: list[Item], output: Path, copy: bool) -> Iterator[str]:
    missing = []
    for item in group:
        if _is_there(item, output / item.path, copy):
            yield "kept"
        else:
            missing.append(item)
    if not missing:
        return
    if not missing[0].source.part.startswith("frame="):
        for item in missing:
            if not item.source.part and not copy and _link(item, output / item.path):
                yield "linked"
            else:
                _write_checked(item, output / item.path, produce(item.source))
                yield "written"
        return
    by_part: dict[str, list[Item]] = {}
    for item in missing:
        by_part.setdefault(item.source.part, []).append(item)
    for part, data in frames.extract(missing[0].source.path, by_part):
        for item in by_part.pop(part):
            _write_checked(item, output / item.path, data)
            yield "written"
    if by_part:
        raise _changed(missing[0])


def _is_there(item: Item, path: Path, copy: bool) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != item.facts.bytes:
        return False
    if not item.source.part and os.path.exists(item.source.path) and os.path.samefile(path, item.source.path):
        return not copy and os.stat(item.source.path).st_mtime_ns == item.facts.modified
    return hashlib.sha256(path.read_bytes()).hexdigest() == item.facts.sha256


def _link(item: Item, path: Path) -> bool:
    # A link to a link would be one more link on Linux: the file itself is wanted.
    source = os.path.realpath(item.source.path)
    try:
        status = os.stat(source)
    except OSError as error:
        raise _changed(item) from error
    if (status.st_size, status.st_mtime_ns) != (item.facts.bytes, item.facts.modified):
        raise _changed(item)
    temporary = path.parent / f".prepare-{uuid4().hex}.tmp"
    try:
        os.link(source, temporary)
    except OSError:  # another file system, or one without links, or too many of them
        return False
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _write_checked(item: Item, path: Path, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != item.facts.sha256:
        raise _changed(item)
    _write(path, data)


def _write(path: Path, data: bytes) -> None:
    temporary = path.parent / f".prepare-{uuid4().hex}.tmp"
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def _changed(item: Item) -> InputError:
    return InputError(escape(f"{item.source.label}: changed while it was being prepared; run again when it is at rest"))


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows; there nothing stops two runs in one folder
        yield
        return
    handle = os.open(output, os.O_RDONLY)
    try:
        # The lock ends with the process, however that ends.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise InputError(f"{output}: another run is at work in this folder; wait for it") from error
    finally:
        os.close(handle)
