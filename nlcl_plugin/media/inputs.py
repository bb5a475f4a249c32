"""Which files are meant by the arguments of a command, and where their results go."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_files
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.video import VIDEO_SUFFIXES

_SUFFIXES = (*IMAGE_SUFFIXES, ".pgm", *VIDEO_SUFFIXES)


class Job(NamedTuple):
    """A file and its result."""

    source: Path  # the file
    output: Path  # where the result goes: below the output folder, with the name and the folders of the source
    kind: Literal["image", "video"]  # by the ending; what is no video is taken for an image


def list_inputs(
    arguments: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    null: bool = False,
    left: list[str] | None = None,
) -> list[Job]:
    """Find the files that arguments name.

    | argument | what is taken | its name below the output folder |
    |---|---|---|
    | a file | it, whatever its ending | its name |
    | a folder | all images and videos below it, except hidden ones | its path below the folder |
    | a pattern with `*`, `?`, `[…]` or `**` | what matches; folders as above | its path below the part without such |
    | `-` | the files and folders named on standard input | a relative name as it is given, others the last part |

    An output folder inside an input folder is left out of it. Links are followed.

    Args:
        arguments: Files, folders, patterns and `-`.
        output: The output folder; it may be missing.
        null: Names are separated by NUL, as by `find -print0`, not by newlines.
        left: Gets the files in folders and patterns that are left out, as they have the ending of no image or video.

    Returns:
        The jobs in the order of the arguments, each file once; no two have one output, and none is another's source.

    Raises:
        InputError: If nothing is found for an argument, two files would have one output, a result would replace an
            input.
    """
    home = os.path.realpath(output)
    found: dict[str, tuple[str, str]] = {}  # by the name below the output folder: the source, and its real path
    for argument in arguments:
        for source, name in _expand(os.fspath(argument), home, null, [] if left is None else left):
            first, real = found.setdefault(name, (source, os.path.realpath(source)))
            if real != os.path.realpath(source):
                raise InputError(
                    f"{first} and {source}: would have one output name, {name}; give the folder that contains them, or "
                    "derain them into different output folders"
                )
    if not found:
        raise InputError("no input; expected images, videos, folders, patterns or - for names on standard input")
    inputs = {real for _, real in found.values()}
    jobs = []
    for name, (source, _) in found.items():
        target = Path(output, name)
        if os.path.join(os.path.realpath(target.parent), target.name) in inputs:
            raise InputError(f"{source}: its result would replace an input, {target}; choose another output folder")
        jobs.append(Job(Path(source), target, "video" if name.lower().endswith(VIDEO_SUFFIXES) else "image"))
    return jobs


def _expand(argument: str, home: str, null: bool, left: list[str]) -> Iterator[tuple[str, str]]:
    """The files of an argument, and their names below the output folder."""
    if argument == "-":
        for name in _read_names(sys.stdin.buffer, null):
            yield from _expand_path(name, _name_below(name), home, left)
    elif glob.has_magic(argument) and not os.path.lexists(argument):
        yield from _expand_pattern(argument, home, left)
    else:
        yield from _expand_path(argument, "", home, left)


def _name_below(name: str) -> str:
    inner = os.path.normpath(name)
    if not os.path.isabs(inner) and inner.split(os.sep)[0] != os.pardir:
        return inner
    last = os.path.basename(inner)
    return "" if last == os.pardir else last


def _expand_path(path: str, name: str, home: str, left: list[str]) -> Iterator[tuple[str, str]]:
    if os.path.isdir(path):
        inner = _below(path, list_files(path), home, left)
        if not inner:
            endings = ", ".join(suffix.lstrip(".") for suffix in _SUFFIXES)
            raise InputError(f"{path}: no image or video in this folder or below it; expected {endings}")
        for file in inner:
            yield os.path.join(path, file), os.path.join(name, file)
    elif os.path.lexists(path):
        yield path, name or os.path.basename(path)
    else:
        raise InputError(f"{path}: no such file or folder; correct the path")


def _expand_pattern(pattern: str, home: str, left: list[str]) -> Iterator[tuple[str, str]]:
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = "/".join(parts[:fixed]) + "/" if fixed else ""
    found: list[str] = []
    for path in sorted(glob.glob(pattern, recursive=True)):
        inner = [f"{path.rstrip('/')}/{file}" for file in list_files(path)] if os.path.isdir(path) else [path]
        found += [file[len(root) :] for file in inner]
    files = _below(root or ".", list(dict.fromkeys(found)), home, left)
    if not files:
        raise InputError(f"{pattern}: no image or video matches this pattern; correct it")
    for file in files:
        yield root + file, file


def _below(folder: str, files: Sequence[str], home: str, left: list[str]) -> list[str]:
    """Images and videos, except those in an output folder inside the folder."""
    inside = home.rstrip(os.sep) + os.sep
    if inside.startswith(os.path.realpath(folder).rstrip(os.sep) + os.sep) and home != os.path.realpath(folder):
        files = [file for file in files if not os.path.realpath(os.path.join(folder, file)).startswith(inside)]
    left += [os.path.join(folder, file) for file in files if not file.lower().endswith(_SUFFIXES)]
    return [file for file in files if file.lower().endswith(_SUFFIXES)]


def _read_names(stream: BinaryIO, null: bool) -> list[str]:
    data = stream.read()
    if not null and b"\0" in data:
        raise InputError("standard input: the names are separated by NUL; use the switch for that")
    pieces = data.split(b"\0") if null else (line.removesuffix(b"\r") for line in data.split(b"\n"))
    return [os.fsdecode(piece) for piece in pieces if piece]
