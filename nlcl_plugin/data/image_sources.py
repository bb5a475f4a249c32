"""Where the encoded images of a dataset come from: a folder or an LMDB."""

from __future__ import annotations

import os
from typing import Protocol

from nlcl_plugin.data.image_io import list_images, read_bytes


class ImageSource(Protocol):
    """Where encoded images come from.

    Attributes:
        root: The folder or LMDB.
        names: The images: paths below the folder, or keys.
    """

    root: str
    names: list[str]

    def read(self, name: str) -> bytes:
        """Read an encoded image."""


class FolderSource:
    """The images below a folder.

    Args:
        root: The folder.

    Raises:
        InputError: If it holds no image.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.names = list_images(root)

    def read(self, name: str) -> bytes:
        """Read an image file.

        Raises:
            InputError: If it cannot be read.
        """
        return read_bytes(os.path.join(self.root, name))


class LmdbSource:
    """The images of an LMDB.

    Args:
        root: The LMDB.

    Raises:
        InputError: If it is not a whole LMDB in BasicSR's layout.
    """

    def __init__(self, root: str) -> None:
        from nlcl_plugin.data.lmdb_store import LmdbImages  # here, as who reads folders needs no lmdb

        self.root = root
        self._images = LmdbImages(root)
        self.names = self._images.keys

    def read(self, name: str) -> bytes:
        """Read an encoded image.

        Raises:
            InputError: If it is missing or cannot be read.
        """
        return self._images.get(name)


def is_lmdb(root: str) -> bool:
    """Whether a path is that of an LMDB, by its name."""
    return root.endswith(".lmdb")


def open_source(root: str | os.PathLike[str]) -> ImageSource:
    """Open a folder, or an LMDB if its name ends in `.lmdb`.

    Args:
        root: The path; a `~` at its start is the home folder.

    Returns:
        The source; its `root` is normalised.

    Raises:
        InputError: If there are no images.
    """
    root = os.path.normpath(os.path.expanduser(root))
    return LmdbSource(root) if is_lmdb(root) else FolderSource(root)
