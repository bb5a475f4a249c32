"""Pairs and rain layers of a video of a still scene: what most frames show is the scene, what few show is rain (ours).

So SPA-Data and LHP-Rain were made, by hand and with care; this is the part that a program can do. Frames around a
chosen one are aligned to it (ECC: Evangelidis and Psarakis, "Parametric image alignment using enhanced correlation
coefficient maximization", IEEE TPAMI 30(10), 2008), so that the camera may be held in a hand. Their median over time is
the clean image. Where something else than rain moved, the clean image is the frame itself: such places are no pair, but
do no harm in one.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.errors import InputError
from nlcl_plugin.pictures import save_montage
from nlcl_plugin.prepare.inspection import read_frames

WINDOW = 31  # frames of a median
FEWEST = 9  # aligned frames; of fewer, a pixel may be rainy in half of them
ALIKE = 0.7  # correlation of the aligned frames; rain lowers it to 0.9, another scene to about 0
FARTHEST = 0.125  # of the shorter side, the shift of a frame that is still taken: so much is cut off at each border
DARKER = 10 / 255  # of the frame against the median: rain only brightens, so something else moved there
BRIGHTER = 20 / 255  # all over a disc wider than streaks are: something larger came there
WIDEST = 9  # pixels, the diameter of that disc
BLUR = 4.0  # pixels, standard deviation of the surroundings in which darker pixels are counted
GROWN = 15  # pixels, side of the square by which a place of motion grows
SPECKLE = 0.15  # fraction of darker pixels around a place, below which they are noise
MOST_MOTION = 0.5  # fraction of moving pixels above which a frame is no pair
_STILL = 0.5  # pixels, of the corners: rain alone lets the search err by as much, and resampling would blur
_SHOWN = 6


class StaticPair(NamedTuple):
    """A rainy frame and the scene without rain, (H, W, 3), uint8 RGB, cropped to what all frames show."""

    rainy: np.ndarray
    clean: np.ndarray
    rain: np.ndarray  # (H, W), uint8: the grey part of rainy - clean


def separate(frames: Sequence[np.ndarray], centre: int) -> StaticPair:
    """Separate a frame into scene and rain by the frames around it.

    Args:
        frames: Consecutive frames (H, W, 3), uint8 RGB, of one size.
        centre: The index of the frame to separate.

    Raises:
        InputError: If fewer than `FEWEST` frames can be aligned to it, or more than `MOST_MOTION` of it moved.
    """
    rainy = frames[centre]
    height, width = rainy.shape[:2]
    aligned, margin = [rainy], 0
    for frame, warp in _alignments(frames, centre):
        corners = np.array([[x, y, 1.0] for x in (0, width) for y in (0, height)])
        shift = float(np.abs(corners @ (warp - np.eye(2, 3)).T).max())
        if shift > FARTHEST * min(height, width):
            continue
        if shift >= _STILL:
            flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
            frame = cv2.warpAffine(frame, warp, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT)
            margin = max(margin, int(np.ceil(shift)) + 1)
        aligned.append(frame)
    inner = slice(margin, height - margin), slice(margin, width - margin)
    if len(aligned) < FEWEST:
        found = f"{len(aligned)} of {len(frames)} frames show the same scene from nearby"
        raise InputError(f"only {found}, expected {FEWEST} or more")
    rainy = rainy[inner]
    clean = np.median(np.stack([frame[inner] for frame in aligned]), axis=0)
    clean = np.rint(clean).astype(np.uint8)
    motion = _motion(rainy, clean)
    if motion.mean() > MOST_MOTION:
        raise InputError(f"{motion.mean():.0%} of the frame moved, expected at most {MOST_MOTION:.0%}")
    clean = np.where(motion[..., None], rainy, clean)
    rain = (rainy.astype(np.int16) - clean).min(axis=2).clip(0).astype(np.uint8)
    return StaticPair(rainy, clean, rain)


def make_static_pairs(
    videos: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str], *, every: int = 15
) -> tuple[int, list[str]]:
    """Write the pairs and rain layers of videos into `val_rainy`, `val_clean` and `rain`, and `summary.png`.

    Args:
        videos: Videos of still scenes.
        output: The folder, which must not exist or be empty.
        every: Frames from one pair to the next.

    Returns:
        The number of pairs, and a line for each frame that is none and each video that is broken.

    Raises:
        InputError: If a video is missing, the folder contains something, or there is no pair at all.
    """
    output = Path(os.path.expanduser(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output}: exists and is not an empty folder; choose another --output")
    names = [Path(video).stem for video in videos]
    if len(set(names)) < len(names):
        raise InputError(f"videos of equal names ({', '.join(sorted(names))}) would overwrite each other; rename one")
    for video in videos:
        if not os.path.isfile(video):
            raise InputError(f"{video}: no such file or folder; give videos")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        folder = Path(temporary) / "pairs"
        pairs, left_out = _write_pairs(list(zip(videos, names, strict=True)), folder, every)
        if not pairs:
            raise InputError(f"no pair in {len(videos)} videos: {left_out[0]}")
        os.replace(folder, output)  # all of it, or nothing
    return pairs, left_out


def _write_pairs(
    videos: Sequence[tuple[str | os.PathLike[str], str]], folder: Path, every: int
) -> tuple[int, list[str]]:
    pairs, left_out, shown = 0, [], []
    for video, stem in videos:
        for number, pair in _pairs(video, every):
            if isinstance(pair, str):
                left_out.append(pair)
                continue
            pairs += 1
            grey = pair.rain[..., None].repeat(3, axis=2)
            for kind, image in (("val_rainy", pair.rainy), ("val_clean", pair.clean), ("rain", grey)):
                write_image(folder / kind / f"{stem}_{number:06d}.png", image)
            bright = np.minimum(grey.astype(np.uint16) * 4, 255).astype(np.uint8)
            shown.append({"rainy": pair.rainy, "clean": pair.clean, "rain × 4": bright})
            shown = shown[:: 2 if len(shown) > 2 * _SHOWN else 1]  # some of all, without keeping all
    save_montage(str(folder / "summary.png"), shown[:: -(-len(shown) // _SHOWN) or 1])
    return pairs, left_out


def _pairs(video: str | os.PathLike[str], every: int) -> Iterator[tuple[int, StaticPair | str]]:
    """The number of every so many frames, and its pair or why there is none; of a broken video, up to the break."""
    try:
        for number, window, centre in _windows(video, every):
            try:
                yield number, separate(window, centre)
            except InputError as error:
                yield number, f"{video}#{number}: {error}"
    except InputError as error:
        yield -1, str(error)


def _windows(video: str | os.PathLike[str], every: int) -> Iterator[tuple[int, list[np.ndarray], int]]:
    """Every so many frames: its number, the frames around it, and its place among them."""
    frames = ((number, cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)) for number, frame in read_frames(str(video)))
    window: deque[tuple[int, np.ndarray]] = deque(islice(frames, WINDOW), maxlen=WINDOW)
    wanted = 0
    while window:
        last = window[-1][0]
        upcoming = next(frames, None)
        middle = window[len(window) // 2][0]
        while wanted <= (middle if upcoming else last):
            places = [number for number, _ in window]
            yield wanted, [frame for _, frame in window], places.index(wanted)
            wanted += every
        if upcoming is None:
            return
        window.append(upcoming)


def _alignments(frames: Sequence[np.ndarray], centre: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The other frames that can be aligned, each with the affine map from the centre's pixels to its own."""
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 50, 1e-4)
    for order in (range(centre - 1, -1, -1), range(centre + 1, len(frames))):
        warp = np.eye(2, 3, dtype=np.float32)  # the neighbour's is where the search for the next begins
        for place in order:
            try:
                correlation, found = cv2.findTransformECC(
                    grey[centre],
                    grey[place],
                    warp.copy(),
                    cv2.MOTION_EUCLIDEAN,
                    criteria,
                    None,  # type: ignore[call-overload]  # no mask, which OpenCV's stubs do not know
                    5,
                )
            except cv2.error:
                continue  # another scene, or nothing in it to align by
            if correlation >= ALIKE:
                warp = found
                yield frames[place], warp


def _motion(rainy: np.ndarray, clean: np.ndarray) -> np.ndarray:
    """Where something else than rain moved, (H, W), bool."""
    difference = (rainy.astype(np.float32) - clean).mean(axis=2) / 255
    darker = cv2.GaussianBlur((difference < -DARKER).astype(np.float32), (0, 0), BLUR) > SPECKLE
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (WIDEST, WIDEST))
    larger = cv2.morphologyEx(difference, cv2.MORPH_OPEN, disc) > BRIGHTER
    return cv2.dilate((darker | larger).astype(np.uint8), np.ones((GROWN, GROWN), np.uint8)) > 0
