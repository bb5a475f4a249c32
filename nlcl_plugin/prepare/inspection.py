"""Read every image once: hash, size, brightness. What was read is recorded, so that the next run need not read it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.data.image_io import decode_raw, encode_png, read_bytes
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError
from nlcl_plugin.prepare.frames import choose_frames
from nlcl_plugin.prepare.model import Collection, Drop, ImageFacts, SourceImage
from nlcl_plugin.prepare.scan import is_video
from nlcl_plugin.prepare.similarity import dhash

# Another version of our code or of OpenCV, which decodes and encodes, may find other facts.
_HEADER = json.dumps({"facts": 4, "opencv": cv2.__version__})


class FactsRecord:
    """The facts that this and earlier runs found: one JSON line per source file, written as soon as it was read.

    A line counts while its source has the same path, size and modification time. Failures are not recorded, as they
    may pass. A file of another version or a damaged one counts as empty; without `append` it stays as it is.
    """

    def __init__(self, path: Path | None, append: bool) -> None:
        self._known: dict[str, dict[str, ImageFacts]] = {}
        self._path = path if append else None
        lines = path.read_text("ascii", "replace").split("\n") if path and path.is_file() else [""]
        try:
            for line in lines[1:-1] if lines[0] == _HEADER else []:  # the last one is empty, or was cut short by a kill
                key, images = json.loads(line)
                self._known[key] = {part: ImageFacts(**facts) for part, facts in images.items()}
        except (ValueError, TypeError, AttributeError):
            self._known = {}
        if self._path:
            with written_whole(self._path) as file:  # without a line that was cut short
                file.write(f"{_HEADER}\n".encode() + b"".join(map(self._line, self._known)))

    def find(self, key: str, source: SourceImage) -> dict[SourceImage, ImageFacts]:
        """The facts of a source, or of the frames that were chosen from a video; empty if they are not known."""
        return {replace(source, part=part): facts for part, facts in self._known.get(key, {}).items()}

    def add(self, key: str, images: dict[SourceImage, ImageFacts]) -> None:
        """Record the facts of a source."""
        if key not in self._known:
            self._known[key] = {image.part: facts for image, facts in images.items()}
            if self._path:
                with self._path.open("ab") as file:
                    file.write(self._line(key))

    def _line(self, key: str) -> bytes:
        images = {part: asdict(facts) for part, facts in self._known[key].items()}
        return json.dumps([key, images]).encode() + b"\n"


def inspect(
    collection: Collection,
    *,
    every: int = 15,
    jobs: int = 1,
    strict: bool = False,
    record: Path | None = None,
    append: bool = True,
) -> tuple[Collection, dict[SourceImage, ImageFacts], list[Drop]]:
    """Read all images of a collection and choose the frames of its videos.

    Args:
        collection: The images that a layout found.
        every: Frames per window of a video, of which the sharpest is taken.
        jobs: The number of threads; decoding and hashing release Python's lock.
        strict: Raise an `InputError` at the first image that cannot be read.
        record: A file of the facts that earlier runs found; see `FactsRecord`.
        append: Write new facts to it.

    Returns:
        The collection with frames in the place of videos, the facts per image, and what could not be read.
    """
    sources = list(dict.fromkeys(image.source for image in collection.images))
    known = FactsRecord(record, append)

    def read(source: SourceImage) -> tuple[str, dict[SourceImage, ImageFacts]] | str:
        try:
            # Before the reading: a file that changes during it is noticed when it is linked or copied.
            status, window = os.stat(source.path), every if is_video(source) else None
            state = [status.st_size, status.st_mtime_ns, window]
            key = json.dumps([os.path.abspath(source.path), source.part, *state])
            return key, known.find(key, source) or _facts(source, status.st_mtime_ns, every)
        except OSError as error:
            return f"cannot be read ({error.strerror}); expected an image file"
        except InputError as error:
            # The message begins with the file's name, which the drop has already.
            return str(error).removeprefix(f"{source.label}: ").removeprefix(f"{source.path}: ")

    facts: dict[SourceImage, ImageFacts] = {}
    chosen: dict[SourceImage, list[SourceImage]] = {}
    unreadable = []
    results = map_in_order(read, sources, jobs=jobs, title="reading")
    for source, result in zip(sources, results, strict=True):
        if not isinstance(result, str):
            known.add(*result)
            facts.update(result[1])
            chosen[source] = list(result[1])
        elif strict:
            raise InputError(f"{source.label}: {result}")
        else:
            unreadable.append(Drop(source.label, result))
    images = [
        replace(image, source=one) for image in collection.images for one in chosen.get(image.source, [image.source])
    ]
    return replace(collection, images=images), facts, unreadable


def _facts(source: SourceImage, modified: int, every: int) -> dict[SourceImage, ImageFacts]:
    images = choose_frames(source, every) if is_video(source) else [(source, output_bytes(source))]
    return {one: facts_of(data, one, modified) for one, data in images}


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


def facts_of(data: bytes, source: SourceImage, modified: int) -> ImageFacts:
    """Compute the facts of an image from the content of its output file."""
    image = decode_raw(data, source.label)
    full = 1 if image.dtype == np.float32 else np.iinfo(image.dtype).max
    return ImageFacts(
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        width=image.shape[1],
        height=image.shape[0],
        dhash=dhash(image),
        brightness=float(np.mean(cv2.mean(image)[:3])) / full,
        modified=modified,
    )
