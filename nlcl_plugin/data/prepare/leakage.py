"""Images that stand on both sides of a split or of unpaired data, and images that resemble each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nlcl_plugin.data.prepare.grouping import below
from nlcl_plugin.data.prepare.hashing import blocks, distances, signs
from nlcl_plugin.data.prepare.model import Facts, Item, Shot, Source

# Of 128. Measured: a rainy image and its clean one differ in 1 to 11 bits in real rain and 8 to 33 in Rain100H, whose
# rain is heavy; images of other scenes in 62 ± 7 and never less than 37. By looks alone, many millions of pairs are
# compared, so that limit must be lower than the one for images of equal names.
TWIN_BITS = 20
NAMESAKE_BITS = 33


def find_leaks(items: Sequence[Item], bits: int) -> list[tuple[Item, Item]]:
    """Find validation images that training has too.

    Args:
        items: The files of a plan.
        bits: Perceptual hashes that differ in at most this many bits count as the same.

    Returns:
        Pairs of a validation and a training image, at most one for each validation image.
    """
    val, train = ([item for item in items if item.split == split] for split in ("val", "train"))
    return find_alike(val, train, bits)


def find_twins(items: Sequence[Item]) -> list[tuple[Item, Item]]:
    """Find rainy training images whose scene is among the clean ones too: by looks, or by name and looks.

    Args:
        items: The files of a plan.

    Returns:
        Pairs of a rainy and a clean image, at most one for each rainy image.
    """
    train = [item for item in items if item.split == "train"]
    rainy, clean = ([item for item in train if item.role == role] for role in ("rainy", "clean"))
    twins = {one.path: (one, other) for one, other in find_alike(rainy, clean, TWIN_BITS)}
    namesakes = {below(item.source): item for item in clean}
    for one in rainy:
        other = namesakes.get(below(one.source))
        if one.path in twins or other is None or one.facts.dhash is None or other.facts.dhash is None:
            continue
        if bin(one.facts.dhash ^ other.facts.dhash).count("1") <= NAMESAKE_BITS:
            twins[one.path] = (one, other)
    return [twins[item.path] for item in rainy if item.path in twins]


def find_alike(ones: Sequence[Item], others: Sequence[Item], bits: int) -> list[tuple[Item, Item]]:
    """Find images that are in another list too.

    Args:
        ones: Images.
        others: The list.
        bits: Perceptual hashes that differ in at most this many bits count as the same.

    Returns:
        Pairs of an image and the nearest one of the list, at most one for each image.
    """
    by_content = {item.facts.sha256: item for item in reversed(others)}
    alike = {item.path: by_content[item.facts.sha256] for item in ones if item.facts.sha256 in by_content}
    asked = [(item, item.facts.dhash) for item in ones if item.facts.dhash is not None and item.path not in alike]
    given = [(item, item.facts.dhash) for item in others if item.facts.dhash is not None]
    table, queries = signs([value for _, value in given]), signs([value for _, value in asked])
    for block in blocks(len(asked) if given else 0, len(given)):
        apart = distances(queries[block], table)
        for (item, _), place, least in zip(asked[block], apart.argmin(axis=1), apart.min(axis=1), strict=True):
            if least <= bits:
                alike[item.path] = given[place][0]
    return [(item, alike[item.path]) for item in ones if item.path in alike]


def find_near_duplicates(shots: Sequence[Shot], facts: dict[Source, Facts], bits: int) -> dict[Source, Source]:
    """Find images that resemble one before them.

    Args:
        shots: The images, of one role.
        facts: Their facts.
        bits: Hashes that differ in at most this many bits count as the same.

    Returns:
        For each near-duplicate, the image that is kept in its place.
    """
    hashed = [(shot.source, facts[shot.source].dhash) for shot in shots]
    known = [(source, value) for source, value in hashed if value is not None]
    table = signs([value for _, value in known])
    kept = np.ones(len(known), bool)
    duplicates = {}
    for block in blocks(len(known), len(known)):
        apart = distances(table[block], table[: block.stop])
        for place in range(block.start, block.stop):
            row = apart[place - block.start, :place]
            near = np.flatnonzero((row <= bits) & kept[:place])
            if len(near):
                kept[place] = False
                duplicates[known[place][0]] = known[near[row[near].argmin()]][0]
    return duplicates
