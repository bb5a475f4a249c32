"""Group the images of a dataset by the folders they are in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from nlcl_plugin.data.files import natural_key
from nlcl_plugin.data.prepare import pairing
from nlcl_plugin.data.prepare.model import Collection, Drop, Shot, Source, Split
from nlcl_plugin.data.prepare.scan import find, split_of, stem
from nlcl_plugin.errors import InputError, escape


def unpaired(rainy: list[Source], clean: list[Source], split: Split | None = None) -> Collection:
    """Make shots of images that have no partners."""
    shots = []
    for role, images in (("rainy", rainy), ("clean", clean)):
        for source in images:
            depth = len(PurePosixPath(below(source)).parts)
            # A sub-folder is a scene; an image beside others is one of its own.
            scene = str(PurePosixPath(source.name).parent) if depth > 1 else stem(source.name)
            shots.append(Shot(source, role, scene, split))  # type: ignore[arg-type]
    return Collection(shots)


def below(source: Source) -> str:
    """The path below the folder that gives an image its role, without ending."""
    parts = PurePosixPath(stem(source.name)).parts
    place = next((i for i, part in enumerate(parts) if re.fullmatch(r"(train|val|test)[AB]|rainy|clean", part)), -1)
    return "/".join(parts[place + 1 :])


def prefix(root: Path, sources: list[Path]) -> str:
    """What to put in front of the names below one of several folders."""
    # Several folders may hold the same names; their places in the command tell them apart. The name of a single one is
    # of no matter, so that scenes and hence splits are the same wherever the dataset lies.
    return f"{sources.index(root) + 1}-{root.resolve().name}/" if len(sources) > 1 else ""


def split_below(root: Path, folder: str) -> Split | None:
    """The split that a folder below a root or else the root itself speaks of, such as RainTrainL."""
    return split_of(f"{root.resolve().name}/{folder}/x")


def by_folder(root: Path, sources: list[Path]) -> dict[str, list[Source]]:
    """List images by the folder they are in."""
    groups: dict[str, list[Source]] = {}
    for source in find(root, prefix(root, sources)):
        groups.setdefault(str(PurePosixPath(source.name).parent), []).append(source)
    return groups


def role_folders(
    images: list[Source], rainy_names: tuple[str, ...], clean_names: tuple[str, ...]
) -> dict[Source, int | None]:
    """Say which part of each path is the folder that gives the role: the first that stands beside one of the other.

    So `data/gt/1.png` is clean beside `data/in/1.png`, though `data` is a name of rainy folders too.
    """
    places: dict[Source, list[tuple[int, str, bool]]] = {}
    sides: set[tuple[str, bool]] = set()
    for source in images:
        parts = PurePosixPath(source.name).parts
        places[source] = [
            (number, "/".join(parts[:number]), part.lower() in clean_names)
            for number, part in enumerate(parts[:-1])
            if part.lower() in rainy_names + clean_names
        ]
        sides.update((base, clean) for _, base, clean in places[source])
    return {
        source: next((number for number, base, clean in found if (base, not clean) in sides), None)
        for source, found in places.items()
    }


def sibling_folders(
    sources: list[Path],
    rainy_names: tuple[str, ...],
    clean_names: tuple[str, ...],
    pair: Callable[[list[Source], list[Source]], tuple[list[tuple[Source, Source]], list[Drop]]],
) -> Collection:
    """Find pairs of folders that stand side by side, at any depth."""
    collection = Collection()
    for root in sources:
        groups: dict[str, tuple[list[Source], list[Source]]] = {}
        full: dict[Source, Source] = {}
        for source, place in role_folders(find(root, prefix(root, sources)), rainy_names, clean_names).items():
            if place is None:
                reason = f"in no folder {' or '.join(rainy_names)} beside a folder {' or '.join(clean_names)}"
                collection.drops.append(Drop(source.label, reason))
                continue
            parts = PurePosixPath(source.name).parts
            # The name below the folder, so that equal names are equal on both sides.
            short = Source(source.path, "/".join(parts[place + 1 :]))
            full[short] = source
            groups.setdefault("/".join(parts[:place]), ([], []))[parts[place].lower() in clean_names].append(short)
        for base in sorted(groups, key=natural_key):
            try:
                paired, drops = pair(*groups[base])
            except InputError as error:
                raise InputError(escape(f"{base or root}: {error}")) from error
            paired = [(full[one], full[other]) for one, other in paired]
            collection.extend(Collection(pairing.make_shots(paired, split=split_below(root, base)), drops))
    return collection
