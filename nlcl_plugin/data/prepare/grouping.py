"""Group the images of a dataset by the folders they are in."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from nlcl_plugin.data.prepare import pairing
from nlcl_plugin.data.prepare.model import Collection, Drop, Shot, Source, Split
from nlcl_plugin.data.prepare.scan import find, natural_key, split_of, stem
from nlcl_plugin.errors import InputError


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
    # Several folders may hold the same names; their places in the command tell them apart.
    return f"{sources.index(root) + 1}-{root.resolve().name}/" if len(sources) > 1 else ""


def named(root: Path, sources: list[Path]) -> list[Source]:
    """List a folder's images, with its own name in front."""
    # The folder's own name may tell the split, as in GT-RAIN_train or RainTrainL; it is put in front for that.
    front = prefix(root, sources) or f"{root.resolve().name}/"
    return find(root, front)


def by_folder(sources: list[Path]) -> dict[str, list[Source]]:
    """List images by the folder they are in."""
    groups: dict[str, list[Source]] = {}
    for root in sources:
        for source in named(root, sources):
            groups.setdefault(str(PurePosixPath(source.name).parent), []).append(source)
    return groups


def sibling_folders(
    sources: list[Path],
    rainy_names: tuple[str, ...],
    clean_names: tuple[str, ...],
    pair: Callable[[list[Source], list[Source]], tuple[list[tuple[Source, Source]], list[Drop]]],
) -> Collection:
    """Find pairs of folders that stand side by side, at any depth."""
    collection = Collection()
    groups: dict[str, tuple[list[Source], list[Source]]] = {}
    for root in sources:
        for source in named(root, sources):
            parts = PurePosixPath(source.name).parts
            known = rainy_names + clean_names
            place = next((i for i, part in enumerate(parts[:-1]) if part.lower() in known), None)
            if place is None:
                collection.drops.append(Drop(source.label, f"in none of the folders {', '.join(known)}"))
                continue
            group = groups.setdefault("/".join(parts[:place]), ([], []))
            # The name below the folder, so that equal names are equal on both sides.
            group[parts[place].lower() in clean_names].append(Source(source.path, "/".join(parts[place + 1 :])))
    for base in sorted(groups, key=natural_key):
        rainy, clean = groups[base]
        try:
            paired, drops = pair(rainy, clean)
        except InputError as error:
            raise InputError(f"{base}: {error}") from error
        split = split_of(f"{base}/x")
        full = {source: Source(source.path, f"{base}/{source.name}") for source in rainy + clean}
        paired = [(full[one], full[other]) for one, other in paired]
        collection.extend(Collection(pairing.make_shots(paired, split=split), drops))
    return collection
