"""Images that stand on both sides of a split, and images that resemble each other within one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nlcl_plugin.data.prepare.hashing import as_bytes, distances
from nlcl_plugin.data.prepare.model import Facts, Item, Shot, Source


def find_leaks(items: Sequence[Item], bits: int) -> list[tuple[Item, Item]]:
    """Find validation images that training has too.

    Args:
        items: The files of a plan.
        bits: Perceptual hashes that differ in at most this many bits count as the same.

    Returns:
        Pairs of a validation and a training image, at most one for each validation image.
    """
    train = [item for item in items if item.split == "train"]
    by_content = {item.facts.sha256: item for item in train}
    hashed = [item for item in train if item.facts.dhash is not None]
    table = as_bytes([item.facts.dhash for item in hashed if item.facts.dhash is not None])
    leaks = []
    for item in (item for item in items if item.split == "val"):
        if item.facts.sha256 in by_content:
            leaks.append((item, by_content[item.facts.sha256]))
        elif item.facts.dhash is not None and hashed:
            apart = distances(item.facts.dhash, table)
            if apart.min() <= bits:
                leaks.append((item, hashed[int(apart.argmin())]))
    return leaks


def find_near_duplicates(shots: Sequence[Shot], facts: dict[Source, Facts], bits: int) -> dict[Source, Source]:
    """Find images that resemble one before them.

    Args:
        shots: The images, of one role.
        facts: Their facts.
        bits: Hashes that differ in at most this many bits count as the same.

    Returns:
        For each near-duplicate, the image that is kept in its place.
    """
    kept: list[Source] = []
    table = np.empty((len(shots), 16), np.uint8)
    duplicates = {}
    for shot in shots:
        value = facts[shot.source].dhash
        if value is None:
            continue
        apart = distances(value, table[: len(kept)])
        if len(apart) and apart.min() <= bits:
            duplicates[shot.source] = kept[int(apart.argmin())]
        else:
            table[len(kept)] = as_bytes([value])[0]
            kept.append(shot.source)
    return duplicates
