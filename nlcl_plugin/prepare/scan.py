"""Find the images and videos of a dataset, and read roles and splits off their folders."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from nlcl_plugin.data.files import natural_key
from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_files
from nlcl_plugin.prepare.model import SourceImage, Split

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv")
_SPLIT = re.compile(r"(?:(?<![a-z])|^rain)(train|val|test)(id|idation|ing|[ABLH]|_?set)?(?![a-z])", re.IGNORECASE)


def find(root: Path, prefix: str = "", *, videos: bool = False) -> list[SourceImage]:
    """List the images, or images and videos, below a folder in natural order; see `list_files`."""
    endings = IMAGE_SUFFIXES + VIDEO_SUFFIXES if videos else IMAGE_SUFFIXES
    names = (name for name in sorted(list_files(root), key=natural_key) if name.lower().endswith(endings))
    return [SourceImage(str(root / name), prefix + name) for name in names]


def split_of(root: Path, folder: str = "") -> Split | None:
    """The split that a folder below a root, or else the root itself, names, as `GT-RAIN_train` and `validation` do."""
    for part in (*reversed(PurePosixPath(folder).parts), root.resolve().name):
        if found := _SPLIT.search(part):
            return found[1].lower()  # type: ignore[return-value]
    return None


def below_role(source: SourceImage) -> str:
    """The path below the folder that gives an image its role, without ending."""
    parts = PurePosixPath(source.stem).parts
    place = next((i for i, part in enumerate(parts) if re.fullmatch(r"(train|val|test)[AB]|rainy|clean", part)), -1)
    return "/".join(parts[place + 1 :])


def role_folders(
    images: list[SourceImage], rainy_names: tuple[str, ...], clean_names: tuple[str, ...]
) -> dict[SourceImage, int | None]:
    """Find the folder that gives each image its role, as an index into its path: the first with a sibling of the other.

    So `data/gt/1.png` is clean beside `data/in/1.png`, though `data` is a name of rainy folders too.
    """

    def folders(source: SourceImage) -> list[tuple[int, tuple[str, ...], bool]]:
        parts = PurePosixPath(source.name).parts[:-1]
        known = rainy_names + clean_names
        return [(i, parts[:i], p.lower() in clean_names) for i, p in enumerate(parts) if p.lower() in known]

    found = {source: folders(source) for source in images}
    sides = {folder[1:] for of_one in found.values() for folder in of_one}
    return {
        source: next((index for index, above, clean in of_one if (above, not clean) in sides), None)
        for source, of_one in found.items()
    }
