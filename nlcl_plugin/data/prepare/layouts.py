"""The layouts that rain datasets come in: each function finds the images of one and says which belong together."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_files
from nlcl_plugin.data.prepare import pairing
from nlcl_plugin.data.prepare.grouping import (
    below,
    by_folder,
    prefix,
    role_folders,
    sibling_folders,
    split_below,
    unpaired,
)
from nlcl_plugin.data.prepare.model import Collection, Drop, Source, Split, examples
from nlcl_plugin.data.prepare.scan import VIDEO_SUFFIXES, find, folder, split_of, stem
from nlcl_plugin.errors import InputError, escape


@dataclass(frozen=True)
class Choices:
    """What a user may say about a layout.

    Attributes:
        rainy: The rainy folder, for `two-folders`, `pairs` and `Outdoor-Rain`.
        clean: The clean folder, for the same.
        pair_by: `stem`, `affix`, `regex`, `list` or `order`, for `pairs`.
        rainy_name: The form of rainy file names, for `affix`.
        clean_name: The form of clean file names, for `affix`.
        rainy_regex: Finds the key of a rainy path, for `regex`.
        clean_regex: The same for a clean path; None: the same expression.
        list_file: The list of pairs, for `list` and `SPA-Data`.
        rain_side: `left` or `right`, for `side-by-side`.
        paired_val: In `trainA/trainB`, valA and valB (testA and testB) hold pairs of equal names.
    """

    rainy: str | None = None
    clean: str | None = None
    pair_by: str | None = None
    rainy_name: str = "{}"
    clean_name: str = "{}"
    rainy_regex: str | None = None
    clean_regex: str | None = None
    list_file: str | None = None
    rain_side: str | None = None
    paired_val: bool = False


Layout = Callable[[list[Path], Choices], Collection]


def two_folders(sources: list[Path], choices: Choices) -> Collection:
    """Rainy and clean images or videos of other scenes, in other counts."""
    rainy, clean = _role_folders(sources, choices)
    one, other = rainy.resolve(), clean.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(f"--rainy {rainy} and --clean {clean}: one lies in the other; give a folder of each kind")
    return unpaired(find(rainy, "rainy/", videos=True), find(clean, "clean/", videos=True))


def pairs(sources: list[Path], choices: Choices) -> Collection:
    """Pairs in two folders, by the rule in `choices.pair_by`."""
    rainy_root, clean_root = _role_folders(sources, choices)
    rainy, clean = find(rainy_root), find(clean_root)
    if choices.pair_by == "stem":
        found = pairing.by_stem(rainy, clean)
    elif choices.pair_by == "affix":
        found = pairing.by_affix(rainy, clean, choices.rainy_name, choices.clean_name)
    elif choices.pair_by == "regex":
        if choices.rainy_regex is None:
            raise InputError("--pair-by regex: needs --rainy-regex, such as --rainy-regex '(\\d+)'; give it")
        found = pairing.by_regex(rainy, clean, choices.rainy_regex, choices.clean_regex or choices.rainy_regex)
    elif choices.pair_by == "list":
        if choices.list_file is None:
            raise InputError("--pair-by list: needs --list FILE with 'rainy_path clean_path' on each line; give it")
        found = pairing.by_list(rainy, clean, Path(os.path.expanduser(choices.list_file)))
    elif choices.pair_by == "order":
        found = pairing.by_order(rainy, clean)
    else:
        raise InputError(f"--pair-by: got {choices.pair_by!r}, expected stem, affix, regex, list or order")
    return Collection(pairing.make_shots(found[0]), found[1])


def spa_data(sources: list[Path], choices: Choices) -> Collection:
    """SPA-Data: a folder with a list file of pairs; tiles of one video stand in one folder."""
    collection = Collection()
    for root in sources:
        own = sorted(path for path in root.glob("*.txt") if path.is_file())  # a pipe would be read for ever
        lists = [Path(os.path.expanduser(choices.list_file))] if choices.list_file else own
        if not lists:
            raise InputError(f"{root}: no list of pairs (*.txt) in this folder; give it with --list FILE")
        front = prefix(root, sources)
        images = {source.name.removeprefix(front): source for source in find(root, front)}
        used: set[Source] = set()
        for list_file in lists:
            found, drops = pairing.match_list(list_file, images, images)
            collection.drops += drops
            used.update(source for pair in found for source in pair)
            scenes = {
                twin: front + _spa_scene(rainy.name.removeprefix(front), twin.name.removeprefix(front))
                for rainy, twin in reversed(found)
            }
            collection.shots += pairing.make_shots(found, scenes.__getitem__, split_of(list_file.name + "/x"))
        collection.drops += [Drop(s.label, pairing.UNLISTED) for s in images.values() if s not in used]
    return collection


def _spa_scene(rainy: str, clean: str) -> str:
    """The video of a tile, as in `real_world/000/000-f/000-f_x_y.png`; a test image is a scene of its own."""
    folders, others = (PurePosixPath(name).parts[:-1] for name in (rainy, clean))
    for place, name in enumerate(folders):
        if name.lower() in ("rain", "rainy", "input"):
            return "/".join(folders[: place + 2]) if len(folders) > place + 1 else stem(clean)
    of_video = len(folders) > 2 or (len(folders) == 2 and folders == others[:2])
    return "/".join(folders[:2]) if of_video else stem(clean)


def real_rain_1k(sources: list[Path], choices: Choices) -> Collection:
    """RealRain-1k: `{train,validation,test}/{input,target}` with equal names, in one or both tracks."""
    return sibling_folders(sources, ("input",), ("target",), pairing.by_stem)


def lhp_rain(sources: list[Path], choices: Choices) -> Collection:
    """LHP-Rain: `<split>/{input,gt}`, by equal names, or in sorted order, as its loader does, if none are equal."""
    notes = []

    def pair(rainy: list[Source], clean: list[Source]) -> tuple[list[tuple[Source, Source]], list[Drop]]:
        # One missing file would shift all pairs after it, so order is for names that say nothing.
        if {stem(source.name) for source in rainy} & {stem(source.name) for source in clean}:
            return pairing.by_stem(rainy, clean)
        rainy, clean = (sorted(images, key=lambda source: source.name) for images in (rainy, clean))
        found, drops = pairing.by_order(rainy, clean)
        if found:
            notes.append(f"paired in sorted order, such as {found[0][0].label} with {found[0][1].label}: look at some")
        return found, drops

    collection = sibling_folders(sources, ("input",), ("gt", "target"), pair)
    collection.notes += notes
    return collection


def rain1400(sources: list[Path], choices: Choices) -> Collection:
    """DDN/Rain1400: `rainy_image/1_14.jpg` and `ground_truth/1.jpg`."""
    return sibling_folders(sources, ("rainy_image",), ("ground_truth",), pairing.by_leading_id)


def outdoor_rain(sources: list[Path], choices: Choices) -> Collection:
    """Outdoor-Rain: many rainy images that begin with the name of their clean one."""
    if choices.rainy or choices.clean:
        rainy, clean = _role_folders(sources, choices)
        found, drops = pairing.by_leading_id(find(rainy), find(clean))
        return Collection(pairing.make_shots(found), drops)
    return sibling_folders(
        sources, ("in", "input", "rainy", "rain", "data"), ("gt", "target", "clean", "norain"), pairing.by_leading_id
    )


def gt_rain(sources: list[Path], choices: Choices) -> Collection:
    """GT-RAIN: scene folders of `…-R-000.png` with one `…-C-000.png` for all, or one for each."""
    collection = Collection()
    scenes = [(root, images) for root in sources for images in by_folder(root, sources).values()]
    for root, images in scenes:
        frames: dict[str, dict[int, Source]] = {"R": {}, "C": {}}
        for source in images:
            found = re.search(r"-([RC])-(\d+)$", stem(source.name), re.IGNORECASE)
            if found and int(found[2]) not in frames[found[1].upper()]:
                frames[found[1].upper()][int(found[2])] = source
            else:
                collection.drops.append(Drop(source.label, "no -R- or -C- frame by its name, or its number is taken"))
        rainy, clean = frames["R"], frames["C"]
        partners = {number: next(iter(clean.values())) for number in rainy} if len(clean) == 1 else clean
        paired = [(source, partners[number]) for number, source in rainy.items() if number in partners]
        used = {source for pair in paired for source in pair}
        collection.drops += [Drop(s.label, pairing.NO_CLEAN) for s in rainy.values() if s not in used]
        collection.drops += [Drop(s.label, pairing.NO_RAINY) for s in clean.values() if s not in used]
        scene = PurePosixPath(images[0].name).parent
        # A place may be called Train Station: the folder above the scene's tells the split.
        split = split_below(root, str(scene.parent))
        collection.shots += pairing.make_shots(paired, dict.fromkeys(clean.values(), str(scene)).__getitem__, split)
    return collection


def rain100(sources: list[Path], choices: Choices) -> Collection:
    """Rain100/200: `rain-001.png` with `norain-001.png`, or `rain/X2/norain-1x2.png` with `norain/norain-1.png`."""
    groups: dict[tuple[str, Split | None], tuple[list[Source], list[Source]]] = {}
    keys: dict[Source, int] = {}
    collection = Collection()
    places = [
        (root, source, place)
        for root in sources
        for source, place in role_folders(find(root, prefix(root, sources)), ("rain", "rainy"), ("norain",)).items()
    ]
    for root, source, place in places:
        path = PurePosixPath(stem(source.name))
        found = re.fullmatch(r"(norain|rain)-?(\d+)(?:x\d+)?", path.name, re.IGNORECASE)
        if not found:
            collection.drops.append(Drop(source.label, "neither rain-N nor norain-N by its name"))
            continue
        # In the new form rainy images are called norain too: the folder decides, where it says anything.
        base, word = (path.parts[:-1], found[1]) if place is None else (path.parts[:place], path.parts[place])
        group = groups.setdefault(("/".join(base), split_below(root, str(path.parent))), ([], []))
        group[word.lower() == "norain"].append(source)
        keys[source] = int(found[2])
    for (_, split), (rainy, clean) in groups.items():
        paired, drops = pairing.pair_by_key(rainy, clean, keys.__getitem__, keys.__getitem__)
        collection.extend(Collection(pairing.make_shots(paired, split=split), drops))
    return collection


def side_by_side(sources: list[Path], choices: Choices) -> Collection:
    """Images of which one half is rainy and the other clean; the middle column of an odd width is left out."""
    if choices.rain_side not in ("left", "right"):
        raise InputError("side-by-side: say which half is rainy with --rain-side left or --rain-side right")
    clean_side = "left" if choices.rain_side == "right" else "right"
    collection = Collection()
    images = [(root, source) for root in sources for source in find(root, prefix(root, sources))]
    for root, source in images:
        halves = [Source(source.path, source.name, side) for side in (choices.rain_side, clean_side)]
        split = split_below(root, str(PurePosixPath(source.name).parent))
        collection.shots += pairing.make_shots([(halves[0], halves[1])], split=split)
    return collection


def train_a_train_b(sources: list[Path], choices: Choices) -> Collection:
    """CUT's, NLCL's and MMagic's form: trainA rainy, trainB clean, unpaired; also valA, valB, testA, testB."""
    collection = Collection()
    splits: tuple[Split, ...] = ("train", "val", "test")
    for root in sources:
        front = prefix(root, sources)
        for split in splits:
            rainy, clean = (
                find(root / name, f"{front}{name}/", videos=split == "train") if (root / name).is_dir() else []
                for name in (f"{split}A", f"{split}B")
            )
            if choices.paired_val and split != "train":
                found, drops = pairing.pair_by_key(rainy, clean, below, below)
                collection.extend(Collection(pairing.make_shots(found, split=split), drops))
            else:
                collection.extend(unpaired(rainy, clean, split))
    return collection


LAYOUTS: dict[str, Layout] = {
    "two-folders": two_folders,
    "SPA-Data": spa_data,
    "RealRain-1k": real_rain_1k,
    "GT-RAIN": gt_rain,
    "LHP-Rain": lhp_rain,
    "Rain100/200": rain100,
    "DDN/Rain1400": rain1400,
    "Outdoor-Rain": outdoor_rain,
    "side-by-side": side_by_side,
    "trainA/trainB": train_a_train_b,
    "pairs": pairs,
}


_BY_ROLE = ("two-folders", "Outdoor-Rain", "pairs")
_DOCUMENTS = (".txt", ".md", ".csv", ".json", ".pdf", ".html")


def collect(layout: str, sources: list[str], choices: Choices | None = None) -> Collection:
    """Find the images of a dataset; nothing but names and lists is read.

    Args:
        layout: A key of `LAYOUTS`.
        sources: The dataset's folders; none for `two-folders` and `pairs`, which have theirs in `choices`.
        choices: What a user says about the layout.

    Returns:
        What was found.

    Raises:
        InputError: If the layout is unknown, a folder is missing, or nothing was found.
    """
    choices = choices or Choices()
    if layout not in LAYOUTS:
        raise InputError(f"layout: got {layout!r}, expected one of {', '.join(LAYOUTS)}")
    roots = [folder(source) for source in sources]
    by_role = [folder(path) for path in (choices.rainy, choices.clean) if path]
    if by_role and layout not in _BY_ROLE:
        raise InputError(f"layout {layout}: takes the dataset's folder, not --rainy and --clean; give that alone")
    if not roots and len(by_role) < 2:
        raise InputError(f"layout {layout}: no folder given; give the dataset's folder, or --rainy and --clean")
    collection = LAYOUTS[layout](roots, choices)
    _account(collection, roots + by_role)
    if not collection.shots:
        wanted = (LAYOUTS[layout].__doc__ or "").splitlines()[0]
        where = ", ".join(map(str, roots)) or f"{choices.rainy}, {choices.clean}"
        left = f"; left out {len(collection.drops)}, such as {collection.drops[0].label}" if collection.drops else ""
        raise InputError(escape(f"{where}: no images of layout {layout} ({wanted}){left}; correct the path or layout"))
    return collection


def _account(collection: Collection, roots: list[Path]) -> None:
    """Add what lies in the folders and a layout passed over, so that nothing is left out silently."""
    known = {source.path for shot in collection.shots for source in (shot.source, shot.twin) if source}
    known.update(drop.label for drop in collection.drops)
    others = []
    for path in dict.fromkeys(str(root / name) for root in roots for name in list_files(root)):
        if path in known:
            continue
        if path.lower().endswith(IMAGE_SUFFIXES):
            collection.drops.append(Drop(path, "where this layout does not look"))
        elif path.lower().endswith(VIDEO_SUFFIXES):
            collection.drops.append(Drop(path, "a video where this layout takes images"))
        elif not path.lower().endswith(_DOCUMENTS):
            others.append(path)
    if others:
        collection.notes.append(f"{len(others)} files are no images or videos by their endings: {examples(others)}")


def _role_folders(sources: list[Path], choices: Choices) -> tuple[Path, Path]:
    if sources or not choices.rainy or not choices.clean:
        raise InputError("this layout takes --rainy DIR and --clean DIR, and no other source; give both")
    return folder(choices.rainy), folder(choices.clean)
