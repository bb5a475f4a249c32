"""Videos as images: the sharpest frame of each window."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from nlcl_plugin.data.image_io import encode_png
from nlcl_plugin.data.prepare.model import Source
from nlcl_plugin.data.video import is_whole
from nlcl_plugin.errors import InputError

# What FFmpeg dislikes about a broken video would go to stderr; our message replaces that.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_ENOUGH = 0.9  # of the frames that the file announces, since some only estimate them, badly for varying rates


def sharpness(bgr: np.ndarray) -> float:
    """The variance of the Laplacian: low where a frame is blurred by motion or defocus."""
    return float(cv2.Laplacian(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def choose(video: Source, every: int) -> Iterator[tuple[Source, bytes]]:
    """Take the sharpest of every so many frames.

    Args:
        video: The video.
        every: The length of a window; the last one may be shorter.

    Yields:
        The frames and their PNG files.

    Raises:
        InputError: If the video cannot be read.
    """
    best: tuple[float, int, np.ndarray] | None = None
    count, announced = 0, _announced(video.path)
    for number, frame in _read(video.path):
        count += 1
        sharp = sharpness(frame)
        if best is None or sharp > best[0]:
            best = (sharp, number, frame)
        if (number + 1) % every == 0:
            yield _frame(video, best[1]), _encode(best[2])
            best = None
    if best is not None:
        yield _frame(video, best[1]), _encode(best[2])
    if not count:
        raise InputError(f"{video.path}: no frame of this video can be read; convert it, for example to MP4")
    if count < _ENOUGH * announced and not is_whole(video.path):
        raise InputError(f"{video.path}: reading ends after {count} of {announced} frames; mend or convert the video")


def extract(path: str, parts: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read frames that were chosen before, in one pass, since seeking is not exact in all videos.

    Args:
        path: The video.
        parts: The frames, as `frame=N`.

    Yields:
        Each frame and its PNG file.
    """
    wanted = {int(part.removeprefix("frame=")): part for part in parts}
    for number, frame in _read(path, stop=max(wanted)):
        if number in wanted:
            yield wanted[number], _encode(frame)


def _open(path: str) -> cv2.VideoCapture:
    # As bytes: OpenCV 5 ends the process with SIGSEGV on a name that is no Unicode.
    name: Any = os.fsencode(path)
    return cv2.VideoCapture(name)


def _announced(path: str) -> int:
    capture = _open(path)
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    finally:
        capture.release()


def _read(path: str, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    capture = _open(path)
    try:
        number = 0
        while stop is None or number <= stop:
            done, frame = capture.read()
            if not done:
                return
            yield number, frame
            number += 1
    finally:
        capture.release()


def _frame(video: Source, number: int) -> Source:
    return Source(video.path, video.name, f"frame={number}")


def _encode(bgr: np.ndarray) -> bytes:
    return encode_png(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
