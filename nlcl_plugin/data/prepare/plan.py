"""Decide which image goes where: sifted, split by scene, and without clean twins in training."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from nlcl_plugin.data.prepare.leakage import TWIN_BITS, find_leaks, find_near_duplicates, find_twins
from nlcl_plugin.data.prepare.model import (
    FOLDERS,
    Collection,
    Drop,
    Facts,
    Item,
    Plan,
    Role,
    Settings,
    Shot,
    Source,
    Split,
    examples,
)
from nlcl_plugin.data.prepare.names import output_names
from nlcl_plugin.errors import InputError, escape

_DEFAULT_FRACTION = 0.1  # of paired scenes
_FRAME_BITS = 6  # frames of one camera differ by rain alone


@dataclass
class _State:
    shots: list[Shot]
    drops: list[Drop]
    notes: list[str]

    def drop(self, reasons: dict[Source, str]) -> None:
        self.drops += [Drop(source.label, reason) for source, reason in reasons.items()]
        self.shots = [shot for shot in self.shots if shot.source not in reasons]


def make_plan(
    collection: Collection,
    facts: dict[Source, Facts],
    unreadable: Iterable[Drop] = (),
    settings: Settings | None = None,
) -> Plan:
    """Decide which image goes where. A pure function: equal input gives an equal plan.

    Args:
        collection: What a layout found, with frames in the place of videos.
        facts: What was read of each image; an image without facts is left out.
        unreadable: What could not be read.
        settings: How to divide and sift.

    Returns:
        The plan.

    Raises:
        InputError: If nothing remains, training would lack one side, or splits share images.
    """
    settings = settings or Settings()
    state = _State(
        [shot for shot in collection.shots if shot.source in facts], list(collection.drops), list(collection.notes)
    )
    _drop_broken_pairs(state, facts)
    _drop_near_duplicates(state, facts, settings)
    _drop_lonely_clean(state, {shot.twin for shot in collection.shots if shot.twin})
    _merge_scenes(state, facts)
    _split(state, settings)
    if not settings.keep_twins:
        _part_twins(state, settings.seed)
    items = _items(state.shots, facts)
    if not items:
        raise InputError("no image remains; " + "; ".join(Plan([], state.drops, list(unreadable), []).describe()[4:]))
    for role in ("rainy", "clean"):
        here = [item for item in items if item.split == "train"]
        if here and not any(item.role == role for item in here):
            raise InputError(
                f"training would have no {role} image; give more scenes, a smaller --val-fraction or --keep-twins"
            )
    _check_leaks(items, settings, state.notes)
    twins = [] if settings.keep_twins else find_twins(items)
    if twins:
        state.notes.append(
            f"{len(twins)} rainy images of training, which is meant to be unpaired, show a scene that is among the "
            f"clean ones by name or looks: {_pairs(twins)}; remove one side, prepare them with --pair-by, or name the "
            "scenes with --scene (--keep-twins if this is wanted)"
        )
    return Plan(items, state.drops, list(unreadable), state.notes, twins)


def _drop_broken_pairs(state: _State, facts: dict[Source, Facts]) -> None:
    reasons = {}
    for shot in state.shots:
        if shot.twin is None:
            continue
        if shot.twin not in facts:
            reasons[shot.source] = "its clean partner is unreadable"
            continue
        mine, other = facts[shot.source], facts[shot.twin]
        if (mine.width, mine.height) != (other.width, other.height):
            reasons[shot.source] = "differs in size from its clean partner"
    state.drop(reasons)


def _drop_near_duplicates(state: _State, facts: dict[Source, Facts], settings: Settings) -> None:
    twins = {shot.twin for shot in state.shots if shot.twin}
    for role in ("rainy", "clean"):
        # A clean twin stays whatever it resembles: without it, its rainy images would lose their partner.
        shots = [shot for shot in state.shots if shot.role == role and shot.source not in twins]
        groups: dict[str, list[Shot]] = defaultdict(list)
        for shot in shots:
            if settings.near_duplicates is not None:
                groups[""].append(shot)
            elif shot.source.part.startswith("frame="):
                groups[shot.source.path].append(shot)
        bits = _FRAME_BITS if settings.near_duplicates is None else settings.near_duplicates
        for group in groups.values():
            duplicates = find_near_duplicates(group, facts, bits)
            state.drop(dict.fromkeys(duplicates, f"{role} near-duplicate (at most {bits} of 128 bits)"))


def _drop_lonely_clean(state: _State, twins: set[Source]) -> None:
    used = {shot.twin for shot in state.shots if shot.twin}
    lonely = [s.source for s in state.shots if s.role == "clean" and s.source in twins and s.source not in used]
    state.drop(dict.fromkeys(lonely, "all its rainy partners are left out"))


def _merge_scenes(state: _State, facts: dict[Source, Facts]) -> None:
    """Make one scene of those that share a file, where the dataset has not put them into different splits itself."""
    parent: dict[str, str] = {shot.scene: shot.scene for shot in state.shots}

    def root(scene: str) -> str:
        while parent[scene] != scene:
            scene = parent[scene] = parent[parent[scene]]
        return scene

    first: dict[tuple[str, Split | None], str] = {}
    merged = []
    for shot in state.shots:
        other = first.setdefault((facts[shot.source].sha256, shot.split), shot.scene)
        one, two = sorted((root(shot.scene), root(other)))
        if one != two:
            parent[two] = one
            merged.append(f"{two} = {one}")
    if merged:
        state.notes.append(f"{len(merged)} scenes hold an image of another and count as one: {examples(merged)}")
        state.shots = [replace(shot, scene=root(shot.scene)) for shot in state.shots]


def _split(state: _State, settings: Settings) -> None:
    given = {shot.split for shot in state.shots}
    own = bool(given & {"val", "test"}) and settings.val_fraction is None
    if own:
        wanted = settings.val_split or ("val" if "val" in given else "test")
        if wanted not in given:
            raise InputError(f"--val-split {wanted}: the dataset has no such split; choose another")
        other = {"val", "test"} - {wanted}
        left = [shot.source for shot in state.shots if shot.split in other]
        state.drop(dict.fromkeys(left, f"of the dataset's {other.pop()} split (--val-split chooses between them)"))
        state.shots = [replace(shot, split="val" if shot.split == wanted else "train") for shot in state.shots]
        if all(shot.split == "val" for shot in state.shots):
            state.notes.append(f"all images are of the dataset's {wanted} split, for validation: see --val-fraction")
        return
    if settings.val_split:
        raise InputError(f"--val-split {settings.val_split}: works with the dataset's own splits only; remove it")
    paired = {shot.scene for shot in state.shots if shot.twin}
    chosen: set[str] = set()
    # Each kind by itself, so that validation gets pairs, rainy and clean images alike.
    for kind in (paired, *({s.scene for s in state.shots if s.role == role} - paired for role in ("rainy", "clean"))):
        default = _DEFAULT_FRACTION if kind is paired else 0.0
        fraction = default if settings.val_fraction is None else settings.val_fraction
        scenes = _shuffled(kind, settings.seed, "split")
        count = round(fraction * len(scenes))
        if fraction > 0 and len(scenes) > 1:
            count = min(max(count, 1), len(scenes) - 1) if fraction < 1 else len(scenes)
        chosen.update(scenes[:count])
    state.shots = [replace(shot, split="val" if shot.scene in chosen else "train") for shot in state.shots]


def _part_twins(state: _State, seed: int) -> None:
    """Of the training scenes with both, keep the clean images of one half and the rainy ones of the other."""
    train = [shot for shot in state.shots if shot.split == "train"]
    # By scene, not by pair: --scene may say that unpaired images show the same.
    rainy, clean = ({shot.scene for shot in train if shot.role == role} for role in ("rainy", "clean"))
    paired = _shuffled(rainy & clean, seed, "twins")
    if not paired:
        return
    if len(paired) == 1 and len({shot.role for shot in train if shot.scene not in paired}) < 2:
        raise InputError(
            f"training has a single scene ({escape(paired[0])}), so every rainy image would meet its clean twin; "
            "give more scenes or --keep-twins"
        )
    clean_half = set(paired[: len(paired) // 2])
    rainy_half = set(paired) - clean_half
    reasons = {}
    for shot in train:
        if shot.scene in clean_half and shot.role == "rainy":
            reasons[shot.source] = "training takes the clean images of its scene (--keep-twins takes both)"
        elif shot.scene in rainy_half and shot.role == "clean":
            reasons[shot.source] = "training takes the rainy images of its scene (--keep-twins takes both)"
    state.drop(reasons)


def _items(shots: list[Shot], facts: dict[Source, Facts]) -> list[Item]:
    items = []

    def add(name: str, shot: Shot, source: Source, role: Role, pair: str | None) -> None:
        assert shot.split in ("train", "val")
        path = f"{FOLDERS[shot.split, role]}/{name}"
        items.append(Item(path, source, facts[source], shot.scene, shot.split, role, pair))

    for split in ("train", "val"):
        here = [shot for shot in shots if shot.split == split]
        rainy = {shot.source: shot for shot in here if shot.role == "rainy"}
        clean = {shot.source: shot for shot in here if shot.role == "clean"}
        twins = {shot.twin for shot in rainy.values() if shot.twin}
        rainy_names = output_names(list(rainy))
        # Loaders pair by whole names, so that in validation a clean image has its rainy partner's, once for each.
        lone = [source for source in clean if split == "train" or source not in twins]
        clean_names = output_names(lone + [s for s in rainy if split == "val" and rainy[s].twin])
        for source, shot in rainy.items():
            name = rainy_names[source]
            pair = None
            if shot.twin and split == "val":
                pair = name
                add(name, shot, shot.twin, "clean", name)
            elif shot.twin in clean:
                pair = clean_names[shot.twin]
            add(name, shot, source, "rainy", pair)
        for source in lone:
            add(clean_names[source], clean[source], source, "clean", None)
    return sorted(items, key=lambda item: item.path)


def _check_leaks(items: list[Item], settings: Settings, notes: list[str]) -> None:
    leaks = find_leaks(items, settings.leakage_bits)
    if leaks:
        text = f"{len(leaks)} validation images are in training too, or nearly: {_pairs(leaks)}"
        if not settings.allow_leakage:
            raise InputError(escape(f"{text}; name the scenes with --scene, mend the data, or --allow-leakage"))
        notes.append(text)
    found = {one.path for one, _ in leaks}
    alike = [(one, other) for one, other in find_leaks(items, TWIN_BITS) if one.path not in found]
    if alike:
        notes.append(f"{len(alike)} validation images look like training ones, with other rain: {_pairs(alike)}")


def _pairs(found: list[tuple[Item, Item]]) -> str:
    return examples([f"{one.source.label} = {other.source.label}" for one, other in found])


def _shuffled(scenes: Iterable[str], seed: int, purpose: str) -> list[str]:
    # A string seeds in the same way on every Python and does not tie the two draws together.
    ordered = sorted(scenes)
    random.Random(f"{seed} {purpose}").shuffle(ordered)
    return ordered
