"""The output folder: what may be in it, who is at work in it, and how files get there whole."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from nlcl_plugin.data.prepare.model import FOLDERS, Plan, escape, examples
from nlcl_plugin.errors import InputError

MANIFEST = "manifest.jsonl"
SUMMARY = "summary.png"
JOURNAL = ".manifest.jsonl.part"  # says whose an unfinished folder is; becomes the manifest at the end
FACTS = ".facts.jsonl"  # stays, for the next run
_TEMPORARY = re.compile(r"\.prepare-[0-9a-f]{32}\.tmp")


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
    if output.exists() and not output.is_dir():
        raise InputError(f"{output}: is a file, expected a folder to be made; choose another --output")
    manifests = _manifests(output)
    if not output.exists() or (manifests and plan is None):
        return
    known = {FACTS}
    if manifests and plan is not None:
        if manifests[0].read_bytes() != plan.manifest().encode():
            raise InputError(
                f"{output}: holds another preparation, or one of other options or sources; remove it or choose "
                "another --output"
            )
        known |= {item.path for item in plan.items} | {MANIFEST, SUMMARY, JOURNAL}
    foreign = []
    for current, folders, files in os.walk(output):
        relative = Path(current).relative_to(output).as_posix()
        prefix = "" if relative == "." else relative + "/"
        foreign += [prefix + name for name in files if not (_TEMPORARY.fullmatch(name) or prefix + name in known)]
        # A link to a folder is listed as a folder, but is none of ours.
        foreign += [
            prefix + name for name in folders if prefix or name not in FOLDERS.values() or (output / name).is_symlink()
        ]
    if foreign:
        raise InputError(
            escape(f"{output}: holds files that are not of this preparation ({examples(sorted(foreign))}); ")
            + "choose an empty --output"
        )


@contextmanager
def at_work(output: Path) -> Iterator[None]:
    """Make the folder, keep other runs out of it, and remove what a killed one left half-written.

    Raises:
        InputError: If it cannot be made, or another run is at work in it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot be made ({error.strerror}); choose another --output") from error
    with _locked(output):
        for folder in (output, *(output / name for name in FOLDERS.values())):
            for leftover in folder.iterdir() if folder.is_dir() else ():
                if _TEMPORARY.fullmatch(leftover.name):
                    leftover.unlink()
        yield


def temporary(path: Path) -> Path:
    """A name beside a file that is to be made: in the same folder, since a rename cannot cross file systems."""
    return path.parent / f".prepare-{uuid4().hex}.tmp"


def write(path: Path, data: bytes) -> None:
    """Write a file whole.

    Raises:
        InputError: If it cannot be written.
    """
    unfinished = temporary(path)
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room or choose another place") from error
    finally:
        unfinished.unlink(missing_ok=True)


def _manifests(output: Path) -> list[Path]:
    return [path for path in (output / MANIFEST, output / JOURNAL) if path.is_file() and not path.is_symlink()]


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    try:
        import fcntl
    except ImportError:  # Windows; there nothing stops two runs in one folder
        yield
        return
    handle = os.open(output, os.O_RDONLY)
    try:
        try:
            # The lock ends with the process, however that ends.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{output}: another run is at work in this folder; wait for it") from error
        yield
    finally:
        os.close(handle)
