"""Videos as images: the sharpest frame of each window."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from nlcl_plugin.data.image_io import encode_png
from nlcl_plugin.data.prepare.model import SourceImage
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.video import is_whole

# FFmpeg's complaints about a broken video would go to stderr; our message replaces them.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_ENOUGH = 0.9  # of the frames that the file announces, since some only estimate them, badly for varying rates


def sharpness(bgr: np.ndarray) -> float:
    """The variance of the Laplacian: low where a frame is blurred by motion or defocus."""
    return float(cv2.Laplacian(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def choose_frames(video: SourceImage, every: int) -> Iterator[tuple[SourceImage, bytes]]:
    """Choose the sharpest frame of each window.

    Args:
        video: The video.
        every: Frames per window; the last one may be shorter.

    Yields:
        The frames and their PNG files.

    Raises:
        InputError: If the video cannot be read.
    """
    best: tuple[float, int, np.ndarray] | None = None
    count = announced = 0
    for number, announced, frame in _read(video.path):  # noqa: B007
        count = number + 1
        sharp = sharpness(frame)
        if best is None or sharp > best[0]:
            best = (sharp, number, frame)
        if count % every == 0:
            yield _frame(video, best[1]), _encode(best[2])
            best = None
    if best is not None:
        yield _frame(video, best[1]), _encode(best[2])
    if not count:
        raise InputError(f"{video.path}: no frame of this video can be read; convert it, for example to MP4")
    if count < _ENOUGH * announced and not is_whole(video.path):
        raise InputError(f"{video.path}: reading ends after {count} of {announced} frames; mend or convert the video")


def extract_frames(path: str, parts: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Read frames that were chosen before, in one pass, since seeking is not exact in all videos.

    Args:
        path: The video.
        parts: The frames, as `frame=N`.

    Yields:
        Each frame and its PNG file.
    """
    wanted = {int(part.removeprefix("frame=")): part for part in parts}
    for number, _, frame in _read(path):
        if number in wanted:
            yield wanted[number], _encode(frame)
        if number >= max(wanted):
            return


def _read(path: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the number of each frame, the count that the file announces, and the frame."""
    # As bytes: OpenCV 5 ends the process with SIGSEGV on a name that is not Unicode.
    name: Any = os.fsencode(path)
    capture = cv2.VideoCapture(name)
    try:
        announced, number = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while (read := capture.read())[0]:
            yield number, announced, read[1]
            number += 1
    finally:
        capture.release()


def _frame(video: SourceImage, number: int) -> SourceImage:
    return SourceImage(video.path, video.name, f"frame={number}")


def _encode(bgr: np.ndarray) -> bytes:
    return encode_png(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
