"""Read every image once, for its hashes and its size; and choose the sharpest frame of each window of a video."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from nlcl_plugin.data.image_io import PNG_OPTIONS, decode_raw, encode, encode_png, read_bytes
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.video import is_whole
from nlcl_plugin.prepare.model import Collection, Drop, ImageFacts, SourceImage
from nlcl_plugin.prepare.scan import VIDEO_SUFFIXES
from nlcl_plugin.prepare.similarity import dhash

# FFmpeg's complaints about a broken video would go to stderr; our message replaces them.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_ENOUGH = 0.9  # of the announced frames: some files only estimate them, badly for varying rates


def inspect(
    collection: Collection, *, every: int = 15, jobs: int = 1, strict: bool = False
) -> tuple[Collection, dict[SourceImage, ImageFacts], list[Drop]]:
    """Read all images of a collection and choose the frames of its videos.

    Returns:
        The collection with frames in the place of videos, the facts per image, and what could not be read.
    """

    def read(source: SourceImage) -> dict[SourceImage, ImageFacts] | str:
        try:
            modified = os.stat(source.path).st_mtime_ns  # before the reading, so that a change during it is noticed
            is_video = source.path.lower().endswith(VIDEO_SUFFIXES)
            images = choose_frames(source, every) if is_video else [(source, output_bytes(source))]
            return {one: _facts(data, one, modified) for one, data in images}
        except OSError as error:
            return f"cannot be read ({error.strerror}); expected an image file"
        except InputError as error:
            # The message begins with the file's name, which the drop has already.
            return str(error).removeprefix(f"{source.label}: ").removeprefix(f"{source.path}: ")

    sources = list(dict.fromkeys(image.source for image in collection.images))
    facts: dict[SourceImage, ImageFacts] = {}
    chosen: dict[SourceImage, list[SourceImage]] = {}
    unreadable = []
    results = map_in_order(read, sources, jobs=jobs, title="reading")
    for source, result in zip(sources, results, strict=True):
        if not isinstance(result, str):
            facts.update(result)
            chosen[source] = list(result)
        elif strict:
            raise InputError(f"{source.label}: {result}")
        else:
            unreadable.append(Drop(source.label, result))
    images = [
        replace(image, source=one) for image in collection.images for one in chosen.get(image.source, [image.source])
    ]
    return replace(collection, images=images), facts, unreadable


def output_bytes(source: SourceImage) -> bytes:
    """Make the content of the output file of an image that is not a frame."""
    data = read_bytes(source.path)
    if not source.part:
        return data
    image = decode_raw(data, source.path)
    half = image.shape[1] // 2
    if not half:
        raise InputError(f"{source.path}: is one pixel wide, expected two images side by side; remove it")
    return encode_png(image[:, :half] if source.part == "left" else image[:, -half:])


def _facts(data: bytes, source: SourceImage, modified: int) -> ImageFacts:
    image = decode_raw(data, source.label)
    return ImageFacts(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=image.shape[1],
        height=image.shape[0],
        dhash=dhash(image),
        modified=modified,
    )


def choose_frames(video: SourceImage, every: int) -> Iterator[tuple[SourceImage, bytes]]:
    """Yield the sharpest frame of each window of so many frames, and its PNG file.

    Raises:
        InputError: If the video cannot be read.
    """

    def sharpness(numbered: tuple[int, np.ndarray]) -> float:  # low where a frame is blurred by motion or defocus
        return float(cv2.Laplacian(cv2.cvtColor(numbered[1], cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())

    for _, window in itertools.groupby(read_frames(video.path), lambda numbered: numbered[0] // every):
        number, frame = max(window, key=sharpness)
        yield SourceImage(video.path, video.name, f"frame={number}"), encode(".png", frame, PNG_OPTIONS)


def extract_frames(path: str, parts: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield frames that were chosen before, as `frame=N`, and their PNG files.

    They are read in one pass, since seeking is not exact in all videos.
    """
    wanted = {int(part.removeprefix("frame=")): part for part in parts}
    for number, frame in read_frames(path):
        if number in wanted:
            yield wanted[number], encode(".png", frame, PNG_OPTIONS)
        if number >= max(wanted):
            return


def read_frames(path: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames of a video, (H, W, 3), uint8 BGR, with their numbers from 0.

    Raises:
        InputError: If none can be read, or the video ends too early.
    """
    # As bytes: OpenCV 5 ends the process with SIGSEGV on a name that is not Unicode.
    name: Any = os.fsencode(path)
    capture = cv2.VideoCapture(name)
    try:
        announced, count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while (read := capture.read())[0]:
            yield count, read[1]
            count += 1
    finally:
        capture.release()
    if not count:
        raise InputError(f"{path}: no frame of this video can be read; convert it, for example to MP4")
    if count < _ENOUGH * announced and not is_whole(path):
        raise InputError(f"{path}: reading ends after {count} of {announced} frames; repair or convert the video")
