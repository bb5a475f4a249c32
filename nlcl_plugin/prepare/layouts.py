"""The layouts that rain datasets come in: each function finds the images of one and which belong together."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_files
from nlcl_plugin.errors import InputError
from nlcl_plugin.prepare import pairing, scan
from nlcl_plugin.prepare.model import Collection, Drop, LabelledImage, SourceImage, Split, examples
from nlcl_plugin.prepare.pairing import Paired, label_pairs
from nlcl_plugin.prepare.scan import VIDEO_SUFFIXES, find, name_prefix, split_below, stem


@dataclass(frozen=True)
class LayoutOptions:
    """A user's options for a layout."""

    rainy: str | None = None  # folders, for `two-folders`, `pairs` and `Outdoor-Rain`
    clean: str | None = None
    pair_by: str | None = None  # `stem`, `affix`, `regex`, `list` or `order`, for `pairs`
    rainy_name: str = "{}"  # the forms of file names, for `affix`
    clean_name: str = "{}"
    rainy_regex: str | None = None  # finds the key of a path, for `regex`
    clean_regex: str | None = None  # None: the same expression
    list_file: str | None = None  # for `list` and `SPA-Data`
    rain_side: str | None = None  # `left` or `right`, for `side-by-side`
    paired_val: bool = False  # in `trainA/trainB`, valA and valB (testA and testB) contain pairs of equal names


def two_folders(sources: list[Path], options: LayoutOptions) -> Collection:
    """Rainy and clean images or videos of other scenes, in other counts."""
    rainy, clean = sources
    one, other = rainy.resolve(), clean.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(f"--rainy {rainy} and --clean {clean}: one lies in the other; give a folder of each kind")
    return Collection(_label_unpaired(find(rainy, "rainy/", videos=True), find(clean, "clean/", videos=True)))


def pairs(sources: list[Path], options: LayoutOptions) -> Collection:
    """Pairs in two folders, by the rule in `pair_by`."""
    rainy, clean = map(find, sources)
    regex, list_file = options.rainy_regex or "", Path(os.path.expanduser(options.list_file or ""))
    rules = {
        "stem": lambda: pairing.by_stem(rainy, clean),
        "affix": lambda: pairing.by_affix(rainy, clean, options.rainy_name, options.clean_name),
        "regex": lambda: pairing.by_regex(rainy, clean, regex, options.clean_regex or regex),
        "list": lambda: pairing.by_list(rainy, clean, list_file),
        "order": lambda: pairing.by_order(rainy, clean),
    }
    if options.pair_by not in rules or (options.pair_by == "list" and not options.list_file):
        raise InputError(f"--pair-by: got {options.pair_by!r}, expected {', '.join(rules)}; list needs --list FILE")
    found, drops = rules[options.pair_by]()
    return Collection(label_pairs(found), drops)


def spa_data(sources: list[Path], options: LayoutOptions) -> Collection:
    """SPA-Data: a folder with a list file of pairs; the tiles of one video are in one folder."""
    collection = Collection()
    for root in sources:
        own = sorted(path for path in root.glob("*.txt") if path.is_file())
        lists = [Path(os.path.expanduser(options.list_file))] if options.list_file else own
        if not lists:
            raise InputError(f"{root}: no list of pairs (*.txt) in this folder; give it with --list FILE")
        prefix = name_prefix(root, sources)
        images = {source.name.removeprefix(prefix): source for source in find(root, prefix)}
        used: set[SourceImage] = set()
        for list_file in lists:
            found, drops = pairing.match_list(list_file, images, images)
            used.update(source for pair in found for source in pair)
            scenes = {
                twin: prefix + _spa_scene(rainy.name.removeprefix(prefix), twin.name.removeprefix(prefix))
                for rainy, twin in reversed(found)
            }
            collection.extend(label_pairs(found, scenes.__getitem__, scan.split_of(list_file.name + "/x")), drops)
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


def real_rain_1k(sources: list[Path], options: LayoutOptions) -> Collection:
    """RealRain-1k: `{train,validation,test}/{input,target}` with equal names, in one or both tracks."""
    return _sibling_folders(sources, ("input",), ("target",), pairing.by_stem)


def lhp_rain(sources: list[Path], options: LayoutOptions) -> Collection:
    """LHP-Rain: `<split>/{input,gt}`, by equal names, or in sorted order, as its loader does, if none are equal."""
    notes = []

    def pair(rainy: list[SourceImage], clean: list[SourceImage]) -> Paired:
        # One missing file would shift all pairs after it, so order is for names that have nothing in common.
        if {stem(source.name) for source in rainy} & {stem(source.name) for source in clean}:
            return pairing.by_stem(rainy, clean)
        rainy, clean = (sorted(images, key=lambda source: source.name) for images in (rainy, clean))
        found, drops = pairing.by_order(rainy, clean)
        if found:
            notes.append(f"paired in sorted order, such as {found[0][0].label} with {found[0][1].label}: check some")
        return found, drops

    collection = _sibling_folders(sources, ("input",), ("gt", "target"), pair)
    collection.notes += notes
    return collection


def rain1400(sources: list[Path], options: LayoutOptions) -> Collection:
    """DDN/Rain1400: `rainy_image/1_14.jpg` and `ground_truth/1.jpg`."""
    return _sibling_folders(sources, ("rainy_image",), ("ground_truth",), pairing.by_leading_id)


def outdoor_rain(sources: list[Path], options: LayoutOptions) -> Collection:
    """Outdoor-Rain: many rainy images that begin with the name of their clean one."""
    if options.rainy:
        found, drops = pairing.by_leading_id(*map(find, sources))
        return Collection(label_pairs(found), drops)
    rainy, clean = ("in", "input", "rainy", "rain", "data"), ("gt", "target", "clean", "norain")
    return _sibling_folders(sources, rainy, clean, pairing.by_leading_id)


def gt_rain(sources: list[Path], options: LayoutOptions) -> Collection:
    """GT-RAIN: scene folders of `…-R-000.png` with one `…-C-000.png` for all, or one for each."""
    collection = Collection()
    scenes: dict[tuple[Path, PurePosixPath], list[SourceImage]] = defaultdict(list)
    for root, source in _all_images(sources):
        scenes[root, PurePosixPath(source.name).parent].append(source)
    for (root, scene), images in scenes.items():
        frames: dict[str, dict[SourceImage, int]] = {"R": {}, "C": {}}
        for source in images:
            if found := re.search(r"-([RC])-(\d+)$", stem(source.name), re.IGNORECASE):
                frames[found[1].upper()][source] = int(found[2])
            else:
                collection.drops.append(Drop(source.label, "no -R- or -C- frame by its name"))
        rainy, clean = frames["R"], frames["C"]
        if len(clean) == 1:
            rainy = dict.fromkeys(rainy, *clean.values())
        paired, drops = pairing.pair_by_key(list(rainy), list(clean), rainy.__getitem__, clean.__getitem__)
        # A place may be called Train Station: the folder above the scene's names the split.
        split = split_below(root, str(scene.parent))
        collection.extend(label_pairs(paired, dict.fromkeys(clean, str(scene)).__getitem__, split), drops)
    return collection


def rain100(sources: list[Path], options: LayoutOptions) -> Collection:
    """Rain100/200: `rain-001.png` with `norain-001.png`, or `rain/X2/norain-1x2.png` with `norain/norain-1.png`."""
    groups: dict[tuple[str, Split | None], tuple[list[SourceImage], list[SourceImage]]] = {}
    keys: dict[SourceImage, int] = {}
    collection = Collection()
    images = _all_images(sources)
    places = scan.role_folders([source for _, source in images], ("rain", "rainy"), ("norain",))
    for root, source in images:
        path, place = PurePosixPath(stem(source.name)), places[source]
        found = re.fullmatch(r"(norain|rain)-?(\d+)(?:x\d+)?", path.name, re.IGNORECASE)
        if not found:
            collection.drops.append(Drop(source.label, "neither rain-N nor norain-N by its name"))
            continue
        # In the new form rainy images are called norain too: the folder decides, if it has a role.
        base, word = (path.parts[:-1], found[1]) if place is None else (path.parts[:place], path.parts[place])
        group = groups.setdefault(("/".join(base), split_below(root, str(path.parent))), ([], []))
        group[word.lower() == "norain"].append(source)
        keys[source] = int(found[2])
    for (_, split), (rainy, clean) in groups.items():
        paired, drops = pairing.pair_by_key(rainy, clean, keys.__getitem__, keys.__getitem__)
        collection.extend(label_pairs(paired, split=split), drops)
    return collection


def side_by_side(sources: list[Path], options: LayoutOptions) -> Collection:
    """Images of which one half is rainy and the other clean; the middle column of an odd width is left out."""
    if options.rain_side not in ("left", "right"):
        raise InputError("side-by-side: say which half is rainy with --rain-side left or --rain-side right")
    sides = ("left", "right") if options.rain_side == "left" else ("right", "left")
    collection = Collection()
    for root, source in _all_images(sources):
        rainy, clean = (SourceImage(source.path, source.name, side) for side in sides)
        split = split_below(root, str(PurePosixPath(source.name).parent))
        collection.images += label_pairs([(rainy, clean)], split=split)
    return collection


def train_a_train_b(sources: list[Path], options: LayoutOptions) -> Collection:
    """CUT's, NLCL's and MMagic's form: trainA rainy, trainB clean, unpaired; also valA, valB, testA, testB."""
    collection = Collection()
    for root in sources:
        prefix = name_prefix(root, sources)
        for split in get_args(Split):
            rainy, clean = (
                find(root / name, f"{prefix}{name}/", videos=split == "train") if (root / name).is_dir() else []
                for name in (f"{split}A", f"{split}B")
            )
            if options.paired_val and split != "train":
                found, drops = pairing.pair_by_key(rainy, clean, scan.below_role, scan.below_role)
                collection.extend(label_pairs(found, split=split), drops)
            else:
                collection.images += _label_unpaired(rainy, clean, split)
    return collection


LAYOUTS: dict[str, Callable[[list[Path], LayoutOptions], Collection]] = {
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

_DOCUMENTS = (".txt", ".md", ".csv", ".json", ".pdf", ".html")


def collect(layout: str, sources: list[str], options: LayoutOptions | None = None) -> Collection:
    """Find the images of a dataset; nothing but names and lists is read.

    Args:
        layout: A key of `LAYOUTS`.
        sources: The dataset's folders; none if they are in `options`, as those of `two-folders` and `pairs`.
        options: The user's options for the layout.

    Raises:
        InputError: If the layout is unknown, a folder is missing, or nothing was found.
    """
    options = options or LayoutOptions()
    if layout not in LAYOUTS:
        raise InputError(f"layout: got {layout!r}, expected one of {', '.join(LAYOUTS)}")
    by_role = [path for path in (options.rainy, options.clean) if path]
    if layout in ("two-folders", "pairs") or (layout == "Outdoor-Rain" and by_role):
        if sources or len(by_role) < 2:
            raise InputError(f"layout {layout}: takes --rainy DIR and --clean DIR, and no other source; give both")
    elif by_role or not sources:
        raise InputError(f"layout {layout}: takes the dataset's folder, not --rainy and --clean; give that alone")
    roots = [scan.existing_folder(path) for path in (*sources, *by_role)]
    collection = LAYOUTS[layout](roots, options)
    _list_unused(collection, roots)
    if not collection.images:
        wanted = LAYOUTS[layout].__doc__
        left = f"; left out {len(collection.drops)}, such as {collection.drops[0].label}" if collection.drops else ""
        where = ", ".join(map(str, roots))
        raise InputError(f"{where}: no images of layout {layout} ({wanted}){left}; correct the path or layout")
    return collection


def _list_unused(collection: Collection, roots: list[Path]) -> None:
    """Add the files that a layout passed over, so that nothing is left out silently."""
    known = {source.path for image in collection.images for source in (image.source, image.twin) if source}
    known.update(drop.label for drop in collection.drops)
    others = []
    for path in dict.fromkeys(str(root / name) for root in roots for name in list_files(root)):
        if path in known:
            continue
        if path.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES):
            collection.drops.append(Drop(path, "where this layout does not look"))
        elif not path.lower().endswith(_DOCUMENTS):
            others.append(path)
    if others:
        collection.notes.append(f"{len(others)} files are no images or videos by their endings: {examples(others)}")


def _all_images(sources: list[Path]) -> list[tuple[Path, SourceImage]]:
    return [(root, source) for root in sources for source in find(root, name_prefix(root, sources))]


def _label_unpaired(
    rainy: list[SourceImage], clean: list[SourceImage], split: Split | None = None
) -> list[LabelledImage]:
    def scene(source: SourceImage) -> str:
        # A sub-folder is a scene; an image beside others is one of its own.
        return str(PurePosixPath(source.name).parent) if "/" in scan.below_role(source) else stem(source.name)

    images = [LabelledImage(source, "rainy", scene(source), split) for source in rainy]
    return images + [LabelledImage(source, "clean", scene(source), split) for source in clean]


def _sibling_folders(
    sources: list[Path],
    rainy_names: tuple[str, ...],
    clean_names: tuple[str, ...],
    pair: Callable[[list[SourceImage], list[SourceImage]], Paired],
) -> Collection:
    """Find pairs of folders side by side, at any depth, and pair their images."""
    collection = Collection()
    for root in sources:
        groups: dict[str, tuple[list[SourceImage], list[SourceImage]]] = {}
        full: dict[SourceImage, SourceImage] = {}
        images = find(root, name_prefix(root, sources))
        for source, place in scan.role_folders(images, rainy_names, clean_names).items():
            if place is None:
                reason = f"in no folder {' or '.join(rainy_names)} beside a folder {' or '.join(clean_names)}"
                collection.drops.append(Drop(source.label, reason))
                continue
            parts = PurePosixPath(source.name).parts
            # The name below the folder, so that equal names are equal on both sides.
            short = SourceImage(source.path, "/".join(parts[place + 1 :]))
            full[short] = source
            groups.setdefault("/".join(parts[:place]), ([], []))[parts[place].lower() in clean_names].append(short)
        for base in sorted(groups, key=scan.natural_key):
            try:
                paired, drops = pair(*groups[base])
            except InputError as error:
                raise InputError(f"{base or root}: {error}") from error
            paired = [(full[one], full[other]) for one, other in paired]
            collection.extend(label_pairs(paired, split=split_below(root, base)), drops)
    return collection
