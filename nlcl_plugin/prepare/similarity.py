"""A perceptual hash, and what it finds: near-duplicates, leaks between splits, and twins in unpaired data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from nlcl_plugin.prepare.model import ImageFacts, LabelledImage, OutputFile, SourceImage
from nlcl_plugin.prepare.scan import below_role

BITS = 128
# Measured: a rainy image and its clean one differ in 1 to 11 bits in real rain and in 8 to 33 in the heavy rain of
# Rain100H; images of other scenes in 62 ± 7 and never less than 37. By hash alone, many millions of pairs are compared,
# so that limit must be lower than the one for images of equal names.
TWIN_BITS = 20
NAMESAKE_BITS = 33
_CELLS = 2**23  # distances in memory at once
_FLAT = 0.004  # about one grey level of 255: below, the hash is that of the noise

Matches = list[tuple[OutputFile, OutputFile]]


def dhash(image: np.ndarray) -> int | None:
    """Hash an (H, W, 3) RGB image of uint8, uint16, or float32 in [0, 1] to 128 bits; None if it has no structure.

    The bits are whether the brightness rises from place to place, 8 × 8 times across and 8 × 8 times down.
    """
    full = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    across = cv2.resize(grey, (9, 8), interpolation=cv2.INTER_AREA)
    down = cv2.resize(grey, (8, 9), interpolation=cv2.INTER_AREA)
    if max(float(across.std()), float(down.std())) < _FLAT * full:
        return None
    bits = np.concatenate([(np.diff(across, axis=1) > 0).ravel(), (np.diff(down, axis=0) > 0).ravel()])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def find_alike(ones: Sequence[OutputFile], others: Sequence[OutputFile], bits: int) -> Matches:
    """Match each image with the nearest other one, of the same content or with a hash within so many bits, if any."""
    by_content = {file.facts.sha256: file for file in reversed(others)}
    alike = {file.path: by_content[file.facts.sha256] for file in ones if file.facts.sha256 in by_content}
    hashed = [file for file in ones if file.facts.dhash is not None and file.path not in alike]
    known = [file for file in others if file.facts.dhash is not None]
    for start, apart in _distances([file.facts for file in hashed], [file.facts for file in known]):
        for file, nearest, least in zip(hashed[start:], apart.argmin(axis=1), apart.min(axis=1), strict=False):
            if least <= bits:
                alike[file.path] = known[nearest]
    return [(file, alike[file.path]) for file in ones if file.path in alike]


def find_leaks(files: Sequence[OutputFile], bits: int) -> Matches:
    """Find validation images that are in training too; see `find_alike`."""
    val, train = ([file for file in files if file.split == split] for split in ("val", "train"))
    return find_alike(val, train, bits)


def find_twins(files: Sequence[OutputFile]) -> Matches:
    """Match rainy training images with clean ones of the same scene: by hash, or by name and hash."""
    train = [file for file in files if file.split == "train"]
    rainy, clean = ([file for file in train if file.role == role] for role in ("rainy", "clean"))
    twins = {one.path: (one, other) for one, other in find_alike(rainy, clean, TWIN_BITS)}
    namesakes = {below_role(file.source): file for file in clean}
    for one in rainy:
        other = namesakes.get(below_role(one.source))
        if other and one.path not in twins and find_alike([one], [other], NAMESAKE_BITS):
            twins[one.path] = (one, other)
    return [twins[file.path] for file in rainy if file.path in twins]


def find_near_duplicates(
    images: Sequence[LabelledImage], facts: dict[SourceImage, ImageFacts], bits: int
) -> list[SourceImage]:
    """Find images that resemble a kept one before them; hashes may differ in this many bits."""
    hashed = [image.source for image in images if facts[image.source].dhash is not None]
    known = [facts[source] for source in hashed]
    kept = np.ones(len(hashed), bool)
    for start, apart in _distances(known, known):
        for row, distances in enumerate(apart, start):
            kept[row] = not (kept[:row] & (distances[:row] <= bits)).any()
    return [source for source, is_kept in zip(hashed, kept, strict=True) if not is_kept]


def _distances(ones: list[ImageFacts], others: list[ImageFacts]) -> Iterator[tuple[int, np.ndarray]]:
    """Count the differing bits of all hashes; yields first rows and (rows, len(others)) blocks, to save memory."""
    if ones and others:
        # The product of signs counts the bits that agree minus those that differ: exact in float32, and compares 30,000
        # images with 30,000 in seconds.
        rows, columns = _signs(ones), _signs(others).T
        step = max(_CELLS // len(others), 1)
        for start in range(0, len(ones), step):
            yield start, (BITS - rows[start : start + step] @ columns) / 2


def _signs(facts: list[ImageFacts]) -> np.ndarray:
    data = b"".join((one.dhash or 0).to_bytes(BITS // 8, "big") for one in facts)
    return np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, BITS // 8), axis=1).astype(np.float32) * 2 - 1
