"""Find the images and videos of a dataset."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from nlcl_plugin.data.files import natural_key
from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_files
from nlcl_plugin.data.prepare.model import Source, Split
from nlcl_plugin.errors import InputError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")


def folder(path: str | os.PathLike[str]) -> Path:
    """Check that a folder is there.

    Raises:
        InputError: If it is not.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        kind = "a file" if os.path.exists(path) else "not there"
        raise InputError(f"{path}: this is {kind}, expected a folder; correct the path")
    return Path(path)


def find(root: Path, prefix: str = "", *, videos: bool = False) -> list[Source]:
    """List the images below a folder.

    The case of endings is of no matter; see `list_files` for what is searched.

    Args:
        root: The folder.
        prefix: What to put in front of the names.
        videos: List videos too.

    Returns:
        The images in natural order.
    """
    endings = IMAGE_SUFFIXES + VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    names = (name for name in sorted(list_files(root), key=natural_key) if name.lower().endswith(endings))
    return [Source(str(root / name), prefix + name) for name in names]


def is_video(source: Source) -> bool:
    """Whether a file is a video, by its ending."""
    return source.path.lower().endswith(VIDEO_SUFFIXES)


def stem(name: str) -> str:
    """A relative path without its ending."""
    return str(PurePosixPath(name).with_suffix(""))


def split_of(name: str) -> Split | None:
    """The split that the folders of a path speak of, such as `GT-RAIN_train/x.png` or `validation/x.png`."""
    for part in reversed(PurePosixPath(name).parts[:-1]):
        if found := re.search(r"(?<![a-z])(train|val|test)(id|idation|ing|[AB]|_?set)?(?![a-z])", part, re.IGNORECASE):
            return found[1].lower()  # type: ignore[return-value]
        if found := re.match(r"Rain(Train|Test)[LH]", part):
            return found[1].lower()  # type: ignore[return-value]
    return None
