"""The layouts that rain datasets come in: each function finds the images of one and which belong together."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar, get_args

from nlcl_plugin.data.files import natural_key
from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, list_files
from nlcl_plugin.errors import InputError, counted
from nlcl_plugin.prepare import pairing, scan
from nlcl_plugin.prepare.model import Collection, Drop, LabelledImage, Options, SourceImage, Split, examples
from nlcl_plugin.prepare.scan import VIDEO_SUFFIXES, find, split_of

FindImages = Callable[[Path, Options], Collection]
_K = TypeVar("_K")
_Groups = defaultdict[_K, tuple[pairing.Images, pairing.Images]]  # rainy and clean images of each


def _two_folders(rainy: Path, options: Options) -> Collection:
    clean = Path(options.clean or "")
    one, other = rainy.resolve(), clean.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise InputError(f"--rainy {rainy} and --clean {clean}: one lies in the other; give a folder of each kind")
    images = find(rainy, "rainy/", videos=True), find(clean, "clean/", videos=True)
    if options.val_rainy is None or options.val_clean is None:
        return Collection(_label_unpaired(*images))
    collection = Collection(_label_unpaired(*images, split="train"))
    pairs = pairing.by_stem(find(Path(options.val_rainy)), find(Path(options.val_clean)))
    return collection.add_pairs(pairs, "val", lambda clean: f"val/{clean.stem}")


def _pairs(root: Path, options: Options) -> Collection:
    rainy, clean = find(root), find(Path(options.clean or ""))
    regex, list_file = options.rainy_regex or "", Path(os.path.expanduser(options.list_file or ""))
    rules = {
        "stem": lambda: pairing.by_stem(rainy, clean),
        "affix": lambda: pairing.by_affix(rainy, clean, options.rainy_name, options.clean_name),
        "regex": lambda: pairing.by_regex(rainy, clean, regex, options.clean_regex or regex),
        "list": lambda: pairing.by_list(list_file, {s.name: s for s in rainy}, {s.name: s for s in clean}),
        "order": lambda: pairing.by_order(rainy, clean),
    }
    if options.pair_by not in rules or (options.pair_by == "list" and not options.list_file):
        raise InputError(f"--pair-by: got {options.pair_by!r}, expected {', '.join(rules)}; list needs --list FILE")
    return Collection().add_pairs(rules[options.pair_by]())


def _spa_data(root: Path, options: Options) -> Collection:
    own = sorted(path for path in root.glob("*.txt") if path.is_file())
    lists = [Path(os.path.expanduser(options.list_file))] if options.list_file else own
    if not lists:
        raise InputError(f"{root}: no list of pairs (*.txt) in this folder; give it with --list FILE")
    collection = Collection()
    images = {source.name: source for source in find(root)}
    for list_file in lists:
        pairs, drops = pairing.by_list(list_file, images, images)
        scenes = {clean: _spa_scene(rainy, clean) for rainy, clean in reversed(pairs)}
        collection.add_pairs((pairs, drops), split_of(list_file), scenes.__getitem__)
    used = {image.source.label for image in collection.images}  # one list may have what another does not
    collection.drops = [drop for drop in dict.fromkeys(collection.drops) if drop.label not in used]
    return collection


def _spa_scene(rainy: SourceImage, clean: SourceImage) -> str:
    """The video of a tile, as in `real_world/000/000-f/000-f_x_y.png`; a test image is a scene of its own."""
    folders, others = (PurePosixPath(source.name).parts[:-1] for source in (rainy, clean))
    for place, name in enumerate(folders):
        if name.lower() in ("rain", "rainy", "input"):
            return "/".join(folders[: place + 2]) if len(folders) > place + 1 else clean.stem
    of_video = len(folders) > 2 or (len(folders) == 2 and folders == others[:2])
    return "/".join(folders[:2]) if of_video else clean.stem


def _lhp_rain(root: Path, options: Options) -> Collection:
    collection = _siblings(("input",), ("gt", "target"), pairing.by_stem_or_order)(root, options)
    for image in collection.images:
        if image.twin and PurePosixPath(image.source.stem).name != PurePosixPath(image.twin.stem).name:
            labels = f"{image.source.label} with {image.twin.label}"
            collection.notes.append(f"paired in sorted order, such as {labels}: check some")
            break
    return collection


def _gt_rain(root: Path, options: Options) -> Collection:
    collection = Collection()
    scenes: _Groups[PurePosixPath] = defaultdict(lambda: ([], []))
    numbers: dict[SourceImage, int] = {}
    for source in find(root):
        if found := re.search(r"-([RC])-(\d+)$", source.stem, re.IGNORECASE):
            scenes[PurePosixPath(source.name).parent][found[1].upper() == "C"].append(source)
            numbers[source] = int(found[2])
        else:
            collection.drops.append(Drop(source.label, "no -R- or -C- frame by its name"))
    for scene, (rainy, clean) in scenes.items():
        if len(clean) == 1:  # for all
            numbers |= dict.fromkeys((*rainy, *clean), 0)
        paired = pairing.pair_by_key(rainy, clean, numbers.get, numbers.get)
        # A place may be called Train Station: the folder above the scene's names the split.
        collection.add_pairs(paired, split_of(root, str(scene.parent)), dict.fromkeys(clean, str(scene)).__getitem__)
    return collection


def _rain100(root: Path, options: Options) -> Collection:
    collection = Collection()
    groups: _Groups[tuple[tuple[str, ...], Split | None]] = defaultdict(lambda: ([], []))
    numbers: dict[SourceImage, int] = {}
    for source, place in scan.role_folders(find(root), ("rain", "rainy"), ("norain",)).items():
        path = PurePosixPath(source.stem)
        found = re.fullmatch(r"(norain|rain)-?(\d+)(?:x\d+)?", path.name, re.IGNORECASE)
        if not found:
            collection.drops.append(Drop(source.label, "neither rain-N nor norain-N by its name"))
            continue
        # In the new form rainy images are called norain too: the folder decides, if it has a role.
        base, word = (path.parts[:-1], found[1]) if place is None else (path.parts[:place], path.parts[place])
        groups[base, split_of(root, str(path.parent))][word.lower() == "norain"].append(source)
        numbers[source] = int(found[2])
    for (_, split), (rainy, clean) in groups.items():
        collection.add_pairs(pairing.pair_by_key(rainy, clean, numbers.get, numbers.get), split)
    return collection


def _side_by_side(root: Path, options: Options) -> Collection:
    if options.rain_side not in ("left", "right"):
        raise InputError("side-by-side: say which half is rainy with --rain-side left or --rain-side right")
    sides = ("left", "right") if options.rain_side == "left" else ("right", "left")
    collection = Collection()
    for source in find(root):
        rainy, clean = (replace(source, part=side) for side in sides)
        collection.add_pairs(([(rainy, clean)], []), split_of(root, str(PurePosixPath(source.name).parent)))
    return collection


def _train_a_train_b(root: Path, options: Options) -> Collection:
    collection = Collection()
    for split in get_args(Split):
        rainy, clean = (
            find(root / name, f"{name}/", videos=split == "train") if (root / name).is_dir() else []
            for name in (f"{split}A", f"{split}B")
        )
        if options.paired_val and split != "train":
            collection.add_pairs(pairing.pair_by_key(rainy, clean, scan.below_role, scan.below_role), split)
        else:
            collection.images += _label_unpaired(rainy, clean, split)
    return collection


def _siblings(rainy_names: tuple[str, ...], clean_names: tuple[str, ...], pair: pairing.Rule) -> FindImages:
    """Make the function of a layout of rainy and clean folders side by side, at any depth."""

    def find_images(root: Path, options: Options) -> Collection:
        collection = Collection()
        groups: _Groups[str] = defaultdict(lambda: ([], []))
        full: dict[SourceImage, SourceImage] = {}
        for source, place in scan.role_folders(find(root), rainy_names, clean_names).items():
            if place is None:
                reason = f"in no folder {' or '.join(rainy_names)} beside a folder {' or '.join(clean_names)}"
                collection.drops.append(Drop(source.label, reason))
                continue
            parts = PurePosixPath(source.name).parts
            # The name below the folder, so that equal names are equal on both sides.
            short = replace(source, name="/".join(parts[place + 1 :]))
            full[short] = source
            groups["/".join(parts[:place])][parts[place].lower() in clean_names].append(short)
        for base in sorted(groups, key=natural_key):
            try:
                pairs, drops = pair(*groups[base])
            except InputError as error:
                raise InputError(f"{base or root}: {error}") from error
            collection.add_pairs(([(full[o], full[b]) for o, b in pairs], drops), split_of(root, base))
        return collection

    return find_images


_OUTDOOR = (("in", "input", "rainy", "rain", "data"), ("gt", "target", "clean", "norain"))
# What a layout looks like, in words, and the function that finds its images below a folder.
LAYOUTS: dict[str, tuple[str, FindImages]] = {
    "two-folders": ("rainy and clean images or videos of other scenes, in other counts", _two_folders),
    "SPA-Data": ("a folder with a list file of pairs; the tiles of one video are in one folder", _spa_data),
    "RealRain-1k": (
        "{train,validation,test}/{input,target} with equal names",
        _siblings(("input",), ("target",), pairing.by_stem),
    ),
    "GT-RAIN": ("scene folders of …-R-000.png with one …-C-000.png for all, or one for each", _gt_rain),
    "LHP-Rain": ("<split>/{input,gt} by equal names, or else in sorted order, as its loader does", _lhp_rain),
    "Rain100/200": ("rain-001.png with norain-001.png, or rain/X2/norain-1x2.png with norain/norain-1.png", _rain100),
    "DDN/Rain1400": (
        "rainy_image/1_14.jpg and ground_truth/1.jpg",
        _siblings(("rainy_image",), ("ground_truth",), pairing.by_leading_id),
    ),
    "Outdoor-Rain": (
        "many rainy images that begin with the name of their clean one",
        _siblings(*_OUTDOOR, pairing.by_leading_id),
    ),
    "side-by-side": ("images of which one half is rainy and the other clean", _side_by_side),
    "trainA/trainB": ("trainA rainy, trainB clean, unpaired; also valA, valB, testA, testB", _train_a_train_b),
    "pairs": ("pairs in two folders, by the rule of --pair-by", _pairs),
}


def collect(layout: str, sources: list[str], options: Options) -> Collection:
    """Find the images of a dataset; nothing but names and lists is read.

    Raises:
        InputError: If a folder is missing, or nothing was found.
    """
    description, find_images = LAYOUTS[layout]
    by_role = [path for path in (options.rainy, options.clean) if path]
    if layout in ("two-folders", "pairs"):
        if sources or len(by_role) < 2:
            raise InputError(f"layout {layout}: needs --rainy DIR and --clean DIR, and no other source")
    elif by_role or not sources:
        raise InputError(f"layout {layout}: needs the dataset's folder instead of --rainy and --clean")
    pairs = [os.path.expanduser(path) for path in (options.val_rainy, options.val_clean) if path]
    if len(pairs) == 1:
        raise InputError("validation pairs: received one folder; give both --val-rainy DIR and --val-clean DIR")
    roots = [Path(os.path.expanduser(path)) for path in (*sources, *by_role)]
    for root in (*roots, *map(Path, pairs)):
        if not root.is_dir():
            fault = "is a file, not a folder" if root.exists() else "no such file or folder"
            raise InputError(f"{root}: {fault}; correct the path")
    options = replace(options, clean=str(roots[-1]))  # without ~
    if pairs:
        options = replace(options, val_rainy=pairs[0], val_clean=pairs[1])
    collection = Collection()
    for number, root in enumerate(roots[:1] if by_role else roots, start=1):
        found = find_images(root, options)
        # A single folder gets no prefix, so that scenes, and hence splits, do not depend on where the dataset is.
        prefix = f"{number}-{root.resolve().name}/" if len(sources) > 1 else ""
        collection.images += [image.below(prefix) for image in found.images]
        collection.drops += found.drops
        collection.notes += found.notes
    _list_unused(collection, [*roots, *map(Path, pairs)])
    if not collection.images:
        left = f"; skipped {len(collection.drops)}, such as {collection.drops[0].label}" if collection.drops else ""
        wanted = f"no images of layout {layout} ({description})"
        raise InputError(f"{', '.join(map(str, roots))}: {wanted}{left}; correct the path or layout")
    return collection


def _list_unused(collection: Collection, roots: list[Path]) -> None:
    """Add the files that a layout passed over, so that nothing is left out silently."""
    known = {image.source.path for image in collection.images} | {drop.label for drop in collection.drops}
    others = []
    for path in dict.fromkeys(str(root / name) for root in roots for name in list_files(root)):
        if not path.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, ".txt")):  # lists of pairs are text files
            others.append(path)
        elif path not in known and not path.lower().endswith(".txt"):
            collection.drops.append(Drop(path, "where this layout does not look"))
    if others:
        what = f"skipped {counted(len(others), 'file')} without the ending of an image or video"
        collection.notes.append(f"{what}: {examples(others)}")


def _label_unpaired(
    rainy: list[SourceImage], clean: list[SourceImage], split: Split | None = None
) -> list[LabelledImage]:
    def scene(source: SourceImage) -> str:
        # A sub-folder is a scene; an image beside others is one of its own.
        return str(PurePosixPath(source.name).parent) if "/" in scan.below_role(source) else source.stem

    images = [LabelledImage(source, "rainy", scene(source), split) for source in rainy]
    return images + [LabelledImage(source, "clean", scene(source), split) for source in clean]
