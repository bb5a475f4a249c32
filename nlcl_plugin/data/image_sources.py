"""Where the encoded images of a dataset come from: a folder or an LMDB."""

from __future__ import annotations

import os

from nlcl_plugin.data.image_io import list_images, read_bytes
from nlcl_plugin.errors import InputError


class ImageSource:
    """Encoded images: those below a folder. `LmdbImages` has the same methods.

    Attributes:
        root: The folder or LMDB.
        names: The images: paths below the folder, or keys.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.names = list_images(root)

    def read(self, name: str) -> bytes:
        """Read an encoded image.

        Raises:
            InputError: If it is missing or cannot be read.
        """
        return read_bytes(os.path.join(self.root, name))


def is_lmdb(root: str) -> bool:
    """Whether a path is that of an LMDB, by its name."""
    return root.endswith(".lmdb")


def open_source(root: str | os.PathLike[str]) -> ImageSource:
    """Open a folder, or an LMDB if its name ends in `.lmdb`; the `root` of the source is normalised, without `~`.

    Raises:
        InputError: If there are no images.
    """
    root = os.path.normpath(os.path.expanduser(root))
    if not is_lmdb(root):
        return ImageSource(root)
    from nlcl_plugin.data.lmdb.store import LmdbImages  # here, as who reads folders needs no lmdb

    return LmdbImages(root)


def pair_images(rainy: str, clean: str, template: str = "{}") -> list[tuple[str, str]]:
    """Pair the images of two folders, which are searched to their depth.

    Partners have the same path below their folders, or, where there is none, the same path without its ending.

    Args:
        rainy: The folder of the rainy images.
        clean: That of their ground truth.
        template: Makes the name of a rainy image of its partner's, both without ending, such as `{}x4`.

    Returns:
        The paths of both, sorted.

    Raises:
        InputError: If a folder contains no image, or an image has no partner or several.
    """
    left = set(list_images(rainy))
    wanted = {}  # the rainy image, by the clean one
    for name in list_images(clean):
        folder, file = os.path.split(name)
        stem, ending = os.path.splitext(file)
        wanted[name] = os.path.join(folder, template.format(stem)) + ending
    pairs = {name: partner for name, partner in wanted.items() if partner in left}
    left -= set(pairs.values())
    by_stem: dict[str, list[str]] = {}
    for partner in left:
        by_stem.setdefault(os.path.splitext(partner)[0], []).append(partner)
    for name in sorted(set(wanted) - set(pairs)):
        partners = by_stem.pop(os.path.splitext(wanted[name])[0], [])
        if len(partners) == 1:
            pairs[name] = partners[0]
    alone = sorted(set(wanted) - set(pairs)) + sorted(left - set(pairs.values()))
    if alone:
        raise InputError(
            f"{rainy} and {clean}: {len(alone)} images have no partner, or several, such as {alone[0]}; the images of "
            "a pair must have one name"
        )
    return [(os.path.join(rainy, partner), os.path.join(clean, name)) for name, partner in sorted(pairs.items())]
