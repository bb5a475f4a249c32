"""The output folder: what may be in it, who is at work in it, and how files get there whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nlcl_plugin.data.files import remove_leftovers, written_whole
from nlcl_plugin.data.folder_lock import LOCK, locked
from nlcl_plugin.data.prepare.model import FOLDERS, Plan, examples
from nlcl_plugin.errors import InputError, escape

MANIFEST = "manifest.jsonl"
SUMMARY = "summary.png"
JOURNAL = ".manifest.jsonl.part"  # says whose an unfinished folder is; becomes the manifest at the end
FACTS = ".facts.jsonl"  # stays, for the next run
_LEFTOVER = re.compile(r"\.\d+\.tmp$")  # of `written_whole`


def begun(output: Path) -> bool:
    """Whether a folder holds a preparation, finished or not."""
    return bool(_manifests(output))


def check_output(output: Path, plan: Plan | None = None) -> None:
    """See that a folder holds nothing but what a plan makes.

    Args:
        output: The folder; it may be missing.
        plan: The plan. None: it is not made yet, so that any preparation passes.

    Raises:
        InputError: If it holds anything else, or another preparation.
    """
    if os.path.exists(output) and not os.path.isdir(output):
        raise InputError(f"{output}: is a file, expected a folder to be made; choose another --output")
    manifests = _manifests(output)
    if not os.path.exists(output) or (manifests and plan is None):
        return
    known = {FACTS, JOURNAL, LOCK}
    if manifests and plan is not None:
        if manifests[0].read_bytes() != plan.manifest().encode():
            raise InputError(
                f"{output}: holds another preparation, or one of other options or sources; remove it or choose "
                "another --output"
            )
        known |= {item.path for item in plan.items} | {MANIFEST, SUMMARY}
    foreign = []
    for current, folders, files in os.walk(output):
        prefix = "" if current == str(output) else os.path.basename(current) + "/"
        foreign += [prefix + name for name in files if _LEFTOVER.sub("", prefix + name) not in known]
        # A link to a folder is listed as a folder, but is none of ours.
        ours = [
            name for name in folders if not prefix and name in FOLDERS.values() and not (output / name).is_symlink()
        ]
        foreign += [prefix + name for name in folders if name not in ours]
        folders[:] = ours  # nothing of others is searched, however deep it is
    if foreign:
        raise InputError(
            escape(f"{output}: holds files that are not of this preparation ({examples(sorted(foreign))}); ")
            + "choose an empty --output"
        )


@contextmanager
def at_work(output: Path) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and remove what a killed one left half-written.

    Raises:
        InputError: If it cannot be made or written, or another run is at work in it.
    """
    try:
        with locked(output, inside=True):
            for folder in (output, *(output / name for name in FOLDERS.values())):
                remove_leftovers(folder)
            yield
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error}); make room or choose another --output") from error


def write(path: Path, data: bytes) -> None:
    """Write a file whole.

    Raises:
        InputError: If it cannot be written.
    """
    try:
        with written_whole(path) as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error


def _manifests(output: Path) -> list[Path]:
    return [path for path in (output / MANIFEST, output / JOURNAL) if os.path.isfile(path) and not path.is_symlink()]
