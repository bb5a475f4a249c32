"""Read every image once: hash, size, looks. Also makes the bytes of halves and frames, which are no files yet."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from nlcl_plugin.data.image_io import decode_raw, encode_png, read_bytes
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.data.prepare import frames
from nlcl_plugin.data.prepare.cache import FactsCache
from nlcl_plugin.data.prepare.hashing import dhash
from nlcl_plugin.data.prepare.model import Collection, Drop, Facts, Shot, Source
from nlcl_plugin.data.prepare.scan import is_video
from nlcl_plugin.errors import InputError, escape


def inspect(
    collection: Collection,
    *,
    every: int = 15,
    jobs: int = 1,
    strict: bool = False,
    cache: Path | None = None,
    keep: bool = True,
    progress: bool | None = None,
) -> tuple[Collection, dict[Source, Facts], list[Drop]]:
    """Read all images of a collection and choose the frames of its videos.

    Args:
        collection: What a layout found.
        every: Of every so many frames of a video, the sharpest is taken.
        jobs: The number of threads; decoding and hashing release Python's lock.
        strict: End at the first image that cannot be read.
        cache: A file of what earlier runs have read; see `FactsCache`.
        keep: Write what is read to it.
        progress: False shows no progress bar, None shows one on a terminal.

    Returns:
        The collection with frames in the place of videos, the facts of each image, and what could not be read.

    Raises:
        InputError: If `strict` and an image cannot be read.
    """
    sources = list(dict.fromkeys(shot.source for shot in collection.shots))
    known = FactsCache(cache, every)

    def read(source: Source) -> tuple[str, dict[Source, Facts]] | InputError:
        try:
            # Before the reading: a file that changes during it is found out when it is linked or copied.
            status = os.stat(source.path)
            key = known.key(source, status)
            return key, known.find(key, source) or _facts(source, status, every)
        except OSError as error:
            failure = InputError(f"{source.path}: cannot be read ({error.strerror}); expected an image file")
        except InputError as error:
            failure = error
        if strict:
            raise InputError(escape(str(failure))) from failure
        return failure

    facts: dict[Source, Facts] = {}
    chosen: dict[Source, list[Source]] = {}
    unreadable = []
    keys = []
    results = map_in_order(read, sources, jobs=jobs, title="reading", progress=progress)
    try:
        for source, result in zip(sources, results, strict=True):
            if not isinstance(result, InputError):
                key, images = result
                if keep:
                    known.add(key, images)
                keys.append(key)
                facts.update(images)
                chosen[source] = list(images)
                continue
            # The message begins with the file's name, which the drop has already.
            reason = str(result).removeprefix(f"{source.label}: ").removeprefix(f"{source.path}: ")
            unreadable.append(Drop(source.label, reason))
    finally:
        known.close()
    if keep and facts:
        known.keep(keys)
    shots: list[Shot] = []
    for shot in collection.shots:
        shots += [replace(shot, source=one) for one in chosen[shot.source]] if shot.source in chosen else [shot]
    return replace(collection, shots=shots), facts, unreadable


def _facts(source: Source, status: os.stat_result, every: int) -> dict[Source, Facts]:
    images = frames.choose(source, every) if is_video(source) else [(source, produce(source))]
    return {one: facts_of(data, one, status.st_mtime_ns) for one, data in images}


def produce(source: Source) -> bytes:
    """Make the content of an output file; not for frames of videos.

    Raises:
        InputError: If the image cannot be read or is too narrow to halve.
    """
    data = read_bytes(source.path)
    if not source.part:
        return data
    image = decode_raw(data, source.path)
    half = image.shape[1] // 2
    if not half:
        raise InputError(f"{source.path}: is one pixel wide, expected two images side by side; remove it")
    return encode_png(image[:, :half] if source.part == "left" else image[:, -half:])


def facts_of(data: bytes, source: Source, modified: int) -> Facts:
    """Look at an image.

    Args:
        data: The content of the output file.
        source: Where it comes from.
        modified: The source's time of change in ns before it was read.

    Raises:
        InputError: If it is no image.
    """
    image = decode_raw(data, source.label)
    full = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    return Facts(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=image.shape[1],
        height=image.shape[0],
        dhash=dhash(image),
        brightness=float(np.mean(cv2.mean(image)[:3])) / full,
        modified=modified,
    )
