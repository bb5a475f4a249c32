"""Make the files of a plan: each arrives whole, and an interrupted run goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from nlcl_plugin.data.files import sha256, sync_folder
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.data.prepare import frames
from nlcl_plugin.data.prepare.contact_sheet import draw_summary
from nlcl_plugin.data.prepare.inspection import produce
from nlcl_plugin.data.prepare.model import FOLDERS, Item, Plan, Report
from nlcl_plugin.data.prepare.output_folder import JOURNAL, MANIFEST, SUMMARY, at_work, check_output, write
from nlcl_plugin.errors import InputError, escape


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
    check_output(output, plan)  # before anything is touched
    with at_work(output):
        check_output(output, plan)  # another run may have been faster
        finished = (output / MANIFEST).exists()
        if not finished:
            write(output / JOURNAL, plan.manifest().encode())
        for folder in FOLDERS.values():
            (output / folder).mkdir(exist_ok=True)
        report = Report(plan)

        def place(group: list[Item]) -> list[str]:
            return list(_place(group, output, copy))

        for done in map_in_order(place, _groups(plan), jobs=jobs, title="writing", progress=progress):
            for kind in done:
                setattr(report, kind, getattr(report, kind) + 1)
        write(output / SUMMARY, draw_summary(plan, output))
        for folder in FOLDERS.values():
            sync_folder(output / folder)
        if not finished:
            os.replace(output / JOURNAL, output / MANIFEST)
            sync_folder(output)
    return report


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
    return sha256(path) == item.facts.sha256


def _link(item: Item, path: Path) -> bool:
    # A link to a link would be one more link on Linux: the file itself is wanted.
    source = os.path.realpath(item.source.path)
    try:
        status = os.stat(source)
    except OSError as error:
        raise _changed(item) from error
    if (status.st_size, status.st_mtime_ns) != (item.facts.bytes, item.facts.modified):
        raise _changed(item)
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without links, or too many of them
        return False
    return True


def _write_checked(item: Item, path: Path, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != item.facts.sha256:
        raise _changed(item)
    write(path, data)


def _changed(item: Item) -> InputError:
    return InputError(escape(f"{item.source.label}: changed while it was being prepared; run again when it is at rest"))
