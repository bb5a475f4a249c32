"""Decide which image goes where: filtered, split by scene, and without clean twins in training."""

from __future__ import annotations

import itertools
import os
import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from nlcl_plugin.data.files import inner_name
from nlcl_plugin.errors import InputError
from nlcl_plugin.prepare import model
from nlcl_plugin.prepare.model import Collection, Drop, ImageFacts, LabelledImage, OutputFile, Plan, SourceImage
from nlcl_plugin.prepare.similarity import TWIN_BITS, Matches, find_leaks, find_near_duplicates, find_twins

Facts = dict[SourceImage, ImageFacts]

_DEFAULT_FRACTION = 0.1  # of paired scenes
_FRAME_BITS = 6  # frames of one camera differ by rain alone
_UNSAFE = set('%/\\:*?"<>|')
_ENDINGS = {".jpeg": ".jpg", ".tif": ".tiff"}


def make_plan(
    collection: Collection, facts: Facts, unreadable: Iterable[Drop] = (), options: model.Options | None = None
) -> Plan:
    """Decide which image goes where, from what `inspect` returns; equal input gives an equal plan.

    Raises:
        InputError: If nothing remains, training would lack one role, or splits contain the same images.
    """
    options = options or model.Options()
    readable = [image for image in collection.images if image.source in facts]
    found = Collection(readable, list(collection.drops), list(collection.notes))
    _drop_broken_pairs(found, facts)
    _drop_near_duplicates(found, facts, options)
    _drop_lonely_clean(found, {image.twin for image in collection.images if image.twin})
    _merge_scenes(found, facts)
    _split(found, options)
    if not options.keep_twins:
        _separate_twins(found, options.seed)
    plan = Plan(_files(found.images, facts), found.drops, list(unreadable), found.notes)
    if not plan.files:
        raise InputError("no image remains; " + "; ".join(plan.left_out()))
    missing = [role for role in ("rainy", "clean") if not plan.of("train", role)]
    if len(missing) == 1:
        raise InputError(
            f"training would have no {missing[0]} image; give more scenes, a smaller --val-fraction or --keep-twins"
        )
    _check_leaks(plan, options)
    plan.twins = [] if options.keep_twins else find_twins(plan.files)
    if plan.twins:
        plan.notes.append(
            f"{len(plan.twins)} rainy images of training, which is meant to be unpaired, show a scene that is among "
            f"the clean ones by name or content: {_pairs(plan.twins)}; remove one side, prepare them with --pair-by, "
            "or name the scenes with --scene (--keep-twins if this is wanted)"
        )
    return plan


def output_names(sources: list[SourceImage]) -> dict[SourceImage, str]:
    """Name the files of one folder: no two alike, whatever the case, the Unicode form of letters, and the ending.

    A file keeps its name; where two would be the same, all folders of their paths are put in front. Endings become
    lower-case; characters that some systems cannot store become `_`. The result depends neither on the order of the
    images nor on where the dataset is.
    """
    short = {source: _safe(PurePosixPath(source.name).name, source) for source in sources}
    counts = Counter(map(_key, short.values()))
    names: dict[SourceImage, str] = {}
    taken: set[str] = set()
    for source in sorted(sources, key=lambda one: (counts[_key(short[one])] > 1, one.name, one.part)):
        name = short[source] if counts[_key(short[source])] == 1 else _safe(source.name.replace("/", "__"), source)
        stem, ending = os.path.splitext(name)
        numbered = (f"{stem}-{number}{ending}" for number in itertools.count(2))  # one.png beside one.jpg, A beside a
        names[source] = next(name for name in itertools.chain([name], numbered) if _key(name) not in taken)
        taken.add(_key(names[source]))
    return names


def _key(name: str) -> str:
    # Without the ending, since the keys of an LMDB have none.
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()


def _safe(name: str, source: SourceImage) -> str:
    stem, ending = os.path.splitext(name)
    ending = ".png" if source.part else _ENDINGS.get(ending.lower(), ending.lower())
    if source.is_frame:
        stem += f"_{int(source.part.removeprefix('frame=')):06d}"
    return inner_name("".join(c if c.isprintable() and c not in _UNSAFE else "_" for c in stem)) + ending


def _drop_broken_pairs(found: Collection, facts: Facts) -> None:
    reasons = {}
    for image in found.images:
        if image.twin and image.twin not in facts:
            reasons[image.source] = "its clean partner is unreadable"
        elif image.twin and facts[image.source].size != facts[image.twin].size:
            reasons[image.source] = "differs in size from its clean partner"
    found.drop(reasons)


def _drop_near_duplicates(found: Collection, facts: Facts, options: model.Options) -> None:
    twins = {image.twin for image in found.images if image.twin}
    groups: dict[tuple[str, str], list[LabelledImage]] = defaultdict(list)
    for image in found.images:
        # A clean twin stays whatever it resembles: without it, its rainy images would lose their partner.
        if image.source not in twins and (options.near_duplicates is not None or image.source.is_frame):
            groups[image.role, image.source.path if options.near_duplicates is None else ""].append(image)
    bits = _FRAME_BITS if options.near_duplicates is None else options.near_duplicates
    for (role, _), group in groups.items():
        duplicates = find_near_duplicates(group, facts, bits)
        found.drop(dict.fromkeys(duplicates, f"{role} near-duplicate (at most {bits} of 128 bits)"))


def _drop_lonely_clean(found: Collection, twins: set[SourceImage]) -> None:
    used = {image.twin for image in found.images if image.twin}
    lonely = [s.source for s in found.images if s.role == "clean" and s.source in twins and s.source not in used]
    found.drop(dict.fromkeys(lonely, "all its rainy partners are left out"))


def _merge_scenes(found: Collection, facts: Facts) -> None:
    """Make one scene of those with a file in common, unless the dataset puts them into different splits."""
    merged: dict[str, str] = {}

    def merged_scene(scene: str) -> str:
        while scene in merged:
            scene = merged[scene]
        return scene

    first: dict[tuple[str, str | None], str] = {}
    for image in found.images:
        other = first.setdefault((facts[image.source].sha256, image.split), image.scene)
        one, two = sorted((merged_scene(image.scene), merged_scene(other)))
        if one != two:
            merged[two] = one
    if merged:
        equal = model.examples([f"{two} = {one}" for two, one in merged.items()])
        found.notes.append(f"{len(merged)} scenes contain an image of another and count as one: {equal}")
        found.images = [replace(image, scene=merged_scene(image.scene)) for image in found.images]


def _split(found: Collection, options: model.Options) -> None:
    given = {image.split for image in found.images}
    if given & {"val", "test"} and options.val_fraction is None:
        wanted = options.val_split or ("val" if "val" in given else "test")
        if wanted not in given:
            raise InputError(f"--val-split {wanted}: the dataset has no such split; choose another")
        other = "test" if wanted == "val" else "val"
        left = [image.source for image in found.images if image.split == other]
        found.drop(dict.fromkeys(left, f"of the dataset's {other} split (--val-split chooses between them)"))
        found.images = [replace(image, split="val" if image.split == wanted else "train") for image in found.images]
        if all(image.split == "val" for image in found.images):
            found.notes.append(f"all images are of the dataset's {wanted} split, for validation: see --val-fraction")
        return
    if options.val_split:
        raise InputError(f"--val-split {options.val_split}: works with the dataset's own splits only; remove it")
    paired = {image.scene for image in found.images if image.twin}
    chosen: set[str] = set()
    # Each kind by itself, so that validation gets pairs, rainy and clean images alike.
    for kind in (paired, *({s.scene for s in found.images if s.role == role} - paired for role in ("rainy", "clean"))):
        default = _DEFAULT_FRACTION if kind is paired else 0.0
        fraction = default if options.val_fraction is None else options.val_fraction
        scenes = _shuffled(kind, options.seed, "split")
        count = round(fraction * len(scenes))
        if 0 < fraction < 1 and len(scenes) > 1:
            count = min(max(count, 1), len(scenes) - 1)
        chosen.update(scenes[:count])
    found.images = [replace(image, split="val" if image.scene in chosen else "train") for image in found.images]


def _separate_twins(found: Collection, seed: int) -> None:
    """Of the training scenes with both, keep the clean images of one half and the rainy ones of the other."""
    train = [image for image in found.images if image.split == "train"]
    # By scene, not by pair: --scene may say that unpaired images show the same.
    rainy, clean = ({image.scene for image in train if image.role == role} for role in ("rainy", "clean"))
    paired = _shuffled(rainy & clean, seed, "twins")
    half = len(paired) // 2
    for kept, dropped, scenes in (("clean", "rainy", set(paired[:half])), ("rainy", "clean", set(paired[half:]))):
        left = [image.source for image in train if image.scene in scenes and image.role == dropped]
        found.drop(dict.fromkeys(left, f"training uses the {kept} images of its scene (--keep-twins uses both)"))


def _shuffled(scenes: Iterable[str], seed: int, purpose: str) -> list[str]:
    # A string seeds in the same way on every Python and does not tie the two draws together.
    ordered = sorted(scenes)
    random.Random(f"{seed} {purpose}").shuffle(ordered)
    return ordered


def _files(images: list[LabelledImage], facts: Facts) -> list[OutputFile]:
    files = []

    def add(name: str, image: LabelledImage, pair: str | None = None) -> None:
        assert image.split in ("train", "val")
        path = f"{model.FOLDERS[image.split, image.role]}/{name}"
        files.append(OutputFile(path, image.source, facts[image.source], image.scene, image.split, image.role, pair))

    for split in ("train", "val"):
        rainy, clean = (
            {image.source: image for image in images if (image.split, image.role) == (split, role)}
            for role in ("rainy", "clean")
        )
        # Loaders pair by whole names, so that in validation a clean image has its rainy partner's, once for each.
        paired = [source for source in rainy if split == "val" and rainy[source].twin]
        twins = {rainy[source].twin for source in paired}
        unpaired = [source for source in clean if source not in twins]
        rainy_names, clean_names = output_names(list(rainy)), output_names(unpaired + paired)
        for source, image in rainy.items():
            name = rainy_names[source]
            if split == "val" and image.twin:
                add(name, replace(image, source=image.twin, role="clean"), name)
                add(name, image, name)
            else:
                add(name, image, clean_names[image.twin] if image.twin in clean else None)
        for source in unpaired:
            add(clean_names[source], clean[source])
    return sorted(files, key=lambda file: file.path)


def _check_leaks(plan: Plan, options: model.Options) -> None:
    leaks = find_leaks(plan.files, options.leakage_bits)
    if leaks:
        occur = "image also occurs" if len(leaks) == 1 else "images also occur"
        text = f"{len(leaks)} validation {occur} in training (identical or nearly so): {_pairs(leaks)}"
        if not options.allow_leakage:
            raise InputError(f"{text}; name the scenes with --scene, correct the data, or give --allow-leakage")
        plan.notes.append(text)
    leaking = {one.path for one, _ in leaks}
    alike = [(one, other) for one, other in find_leaks(plan.files, TWIN_BITS) if one.path not in leaking]
    if alike:
        plan.notes.append(f"{len(alike)} validation images look like training ones, with other rain: {_pairs(alike)}")


def _pairs(matches: Matches) -> str:
    return model.examples([f"{one.source.label} = {other.source.label}" for one, other in matches])
