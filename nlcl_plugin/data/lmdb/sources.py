"""The images that an LMDB is made of, as they were when they were listed, so that a change is noticed."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.data.lmdb.keys import keys_of


@dataclass(frozen=True, slots=True)
class SourceFile:
    """An image file when it was listed."""

    name: str  # its path below the folder, with forward slashes
    key: str  # its key; sub-images add their number
    file: str  # the file that holds it: the image, or the LMDB's
    state: tuple[int, int]  # the size and time of change of that file, by which a change is noticed


def list_sources(root: str | os.PathLike[str]) -> list[SourceFile]:
    """List the images of a folder with their keys, sorted by name.

    Raises:
        InputError: If there is none.
    """
    names = list_images(root)
    files = [os.path.join(root, name) for name in names]
    keyed = zip(names, keys_of(names), files, strict=True)
    return [SourceFile(name, key, file, state_of(file)) for name, key, file in keyed]


def state_of(path: str) -> tuple[int, int]:
    """The size and time of change of a file; (-1, -1) if there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return (-1, -1)  # such as a link to nothing, which fails when it is read
    return (status.st_size, status.st_mtime_ns)


def digest_of(sources: list[SourceFile]) -> dict[str, Any]:
    """The images in a plan: their number, and a hash of their names and states."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(json.dumps([source.name, *source.state]).encode())
    return {"images": len(sources), "images_sha256": digest.hexdigest()}
