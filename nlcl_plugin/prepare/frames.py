"""Videos as images: the sharpest frame of each window."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from nlcl_plugin.data.image_io import encode_png
from nlcl_plugin.errors import InputError
from nlcl_plugin.media.video import is_whole
from nlcl_plugin.prepare.model import SourceImage

# FFmpeg's complaints about a broken video would go to stderr; our message replaces them.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_ENOUGH = 0.9  # of the frames that the file announces, since some only estimate them, badly for varying rates


def sharpness(bgr: np.ndarray) -> float:
    """The variance of the Laplacian: low where a frame is blurred by motion or defocus."""
    return float(cv2.Laplacian(cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var())


def choose_frames(video: SourceImage, every: int) -> Iterator[tuple[SourceImage, bytes]]:
    """Yield the sharpest frame of each window of so many frames, and its PNG file.

    Raises:
        InputError: If the video cannot be read.
    """
    for _, window in itertools.groupby(_read(video.path), lambda numbered: numbered[0] // every):
        number, frame = max(window, key=lambda numbered: sharpness(numbered[1]))
        yield SourceImage(video.path, video.name, f"frame={number}"), _encode(frame)


def extract_frames(path: str, parts: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Yield frames that were chosen before, as `frame=N`, and their PNG files.

    They are read in one pass, since seeking is not exact in all videos.
    """
    wanted = {int(part.removeprefix("frame=")): part for part in parts}
    for number, frame in _read(path):
        if number in wanted:
            yield wanted[number], _encode(frame)
        if number >= max(wanted):
            return


def _read(path: str) -> Iterator[tuple[int, np.ndarray]]:
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
        raise InputError(f"{path}: reading ends after {count} of {announced} frames; mend or convert the video")


def _encode(bgr: np.ndarray) -> bytes:
    return encode_png(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
