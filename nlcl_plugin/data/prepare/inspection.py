"""Read every image once: hash, size, looks. Also makes the bytes of halves and frames, which are no files yet."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace

import cv2
import numpy as np

from nlcl_plugin.data.image_io import decode_raw, read_bytes, to_float
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.data.prepare import frames
from nlcl_plugin.data.prepare.hashing import dhash
from nlcl_plugin.data.prepare.model import Collection, Drop, Facts, Shot, Source
from nlcl_plugin.data.prepare.scan import is_video
from nlcl_plugin.errors import InputError


def inspect(
    collection: Collection, *, every: int = 15, jobs: int = 1, progress: bool | None = None
) -> tuple[Collection, dict[Source, Facts], list[Drop]]:
    """Read all images of a collection and choose the frames of its videos.

    Args:
        collection: What a layout found.
        every: Of every so many frames of a video, the sharpest is taken.
        jobs: The number of threads; decoding and hashing release Python's lock.
        progress: False shows no progress bar, None shows one on a terminal.

    Returns:
        The collection with frames in the place of videos, the facts of each image, and what could not be read.
    """
    videos = {shot.source for shot in collection.shots if is_video(shot.source)}
    sources = list(dict.fromkeys(shot.source for shot in collection.shots))

    def read(source: Source) -> dict[Source, Facts] | InputError:
        try:
            if source in videos:
                return {one: facts_of(data, one) for one, data in frames.choose(source, every)}
            return {source: facts_of(produce(source), source)}
        except InputError as error:
            return error

    facts: dict[Source, Facts] = {}
    chosen: dict[Source, list[Source]] = {}
    unreadable = []
    results = map_in_order(read, sources, jobs=jobs, title="reading", progress=progress)
    for source, result in zip(sources, results, strict=True):
        if isinstance(result, InputError):
            # The message begins with the file's name, which the drop has already.
            reason = str(result).removeprefix(f"{source.label}: ").removeprefix(f"{source.path}: ")
            unreadable.append(Drop(source.label, reason))
        else:
            facts.update(result)
            chosen[source] = list(result)
    shots: list[Shot] = []
    for shot in collection.shots:
        shots += [replace(shot, source=one) for one in chosen[shot.source]] if shot.source in chosen else [shot]
    return Collection(shots, collection.drops), facts, unreadable


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


def encode_png(rgb: np.ndarray) -> bytes:
    """Encode without loss; floats become 16-bit."""
    if rgb.dtype == np.float32:
        rgb = np.rint(rgb * 65535).astype(np.uint16)
    done, encoded = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not done:
        raise RuntimeError("OpenCV could not encode a PNG")
    return encoded.tobytes()


def facts_of(data: bytes, source: Source) -> Facts:
    """Look at an image.

    Args:
        data: The content of the output file.
        source: Where it comes from.

    Raises:
        InputError: If it is no image.
    """
    image = to_float(decode_raw(data, source.label))
    return Facts(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=image.shape[1],
        height=image.shape[0],
        dhash=dhash(image),
        brightness=float(image.mean(dtype=np.float64)),
        modified=os.stat(source.path).st_mtime_ns,
    )
