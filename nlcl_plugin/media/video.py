"""Read videos frame by frame, and write them again with other pixels, their sound and the times of their frames.

PyAV, which brings FFmpeg, does the work; it comes with the extra `video`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nlcl_plugin.errors import InputError
from nlcl_plugin.media.photograph import MAX_PIXELS
from nlcl_plugin.media.photograph.exif import turned

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi")

# Nothing else is opened: playlists, for example, may name other files and addresses.
_DEMUXERS = {"mov,mp4,m4a,3gp,3g2,mj2": "MP4", "matroska,webm": "Matroska", "avi": "AVI"}
_SAFE = {"format_whitelist": ",".join((*_DEMUXERS, "mov", "matroska")), "protocol_whitelist": "file"}
LIMITED_RANGE, FULL_RANGE = 1, 2  # FFmpeg's numbers
ATTACHED = 1024  # a cover, not moving pictures
_BT709, _BT601 = 1, 5
_MATRICES = {1: _BT709, 4: 4, 5: _BT601, 6: _BT601, 7: 7, 9: 9, 10: 9}
_SEGMENT = b"\x18\x53\x80\x67"  # of Matroska, with all that follows its header
_EXPECTED = "MP4, MOV, Matroska, WebM or AVI"
_ENOUGH = 0.5  # seconds that may be missing at the end, since announced durations are rounded


class Frame(NamedTuple):
    """A frame of a video."""

    rgb: np.ndarray  # (H, W, 3) RGB, the right way up, of uint8, or uint16 if the video has more than eight bits
    pts: int  # when it is shown, in units of the video's time base
    duration: int  # how long, in the same units: until the next frame, or until the file says that the video ends


@dataclass
class Video:
    """A video that is open for reading; iterate over it once."""

    path: str
    container: str  # MP4, Matroska or AVI, whatever the name says
    height: int  # of the frames, the right way up, in pixels
    width: int
    deep: bool  # more than eight bits
    rate: Fraction  # the mean number of frames per second
    time_base: Fraction  # the unit of times in seconds
    frames: int | None  # their number, perhaps estimated; None if it is not known
    source: Any = field(repr=False)  # PyAV's container
    stream: Any = field(repr=False)  # PyAV's stream of the pictures
    notes: list[str] = field(default_factory=list)  # what could not be kept, a phrase each
    orientation: int = 1  # of the first frame as it is stored, 1 to 8 as in EXIF
    matrix: int = _BT709  # FFmpeg's number of the matrix between YCbCr and RGB
    full_range: bool = False  # the values of YCbCr begin at 0, not at 16
    _packets: int = 0
    _pending: Iterator[Any] = field(default_factory=lambda: iter(()), repr=False)

    def __iter__(self) -> Iterator[Frame]:
        """Decode all frames in the order in which they are shown.

        Raises:
            InputError: If the video is broken or ends too early; the frames before that, but the last, were yielded.
        """
        count, held = 0, None
        try:
            for frame in self._pending:
                rgb = turned(self._rgb(frame), self._orientation(frame))
                if rgb.shape[:2] != (self.height, self.width):
                    raise InputError(f"{self.path}: changes its size at frame {count}; convert it to one size")
                pts = frame.pts
                if held is not None:
                    pts = max(held.pts + 1, held.pts + self._step(held) if pts is None else pts)
                    yield held._replace(duration=pts - held.pts)
                held, count = Frame(rgb, pts or 0, frame.duration), count + 1
        except InputError:
            raise
        except errors() as error:
            raise self._broken(count, error) from error
        if held is None:
            return
        announced, end = self._announced_end(), (held.pts + self._step(held)) * self.time_base
        counted = 0 < self.stream.frames <= self._packets  # by the tables of MP4, if it is not in fragments
        if self.container == "MP4" and end < announced - _ENOUGH and not counted:
            raise self._broken(count, f"{float(end):.2f} of {float(announced):.2f} seconds")
        # Some demuxers know no duration of a frame, and some only a usual one.
        left = max(held.duration, round(announced / self.time_base) - held.pts)
        yield held._replace(duration=left or self._step(held))

    def _step(self, frame: Frame) -> int:
        return frame.duration or max(1, round(1 / (self.rate * self.time_base)))

    def _begin(self) -> None:
        """Decode the first frame, which alone says how all are to be turned."""
        decoded = self._decoded()
        try:
            frame = next(decoded, None)
        except errors() as error:
            raise self._broken(0, error) from error
        if frame is None:
            raise InputError(f"{self.path}: has no frame that can be read; repair or convert the video")
        self._pending = itertools.chain([frame], decoded)
        self.orientation = self._orientation(frame)
        sides = frame.height, frame.width
        self.height, self.width = sides[::-1] if self.orientation >= 5 else sides
        # Where the file says nothing: that of its size, as players take it.
        default = _BT709 if frame.height >= 720 or frame.format.is_rgb else _BT601
        self.matrix = _MATRICES.get(int(frame.colorspace), default)
        self.full_range = int(frame.color_range) == FULL_RANGE or frame.format.name.startswith("yuvj")

    def _decoded(self) -> Iterator[Any]:
        for packet in self.source.demux(self.stream):
            if packet.is_corrupt:
                raise ValueError("a packet is cut")
            self._packets += packet.size > 0
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise ValueError("a frame is damaged")
                if frame.interlaced_frame:
                    self.note("it is interlaced, and becomes progressive")
                yield frame

    def note(self, text: str) -> None:
        """Add a note once."""
        if text not in self.notes:
            self.notes.append(text)

    def _orientation(self, frame: Any) -> int:
        """Read how a frame is stored from its display matrix: 1 to 8 as in EXIF."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return 1
        a, b, _, c, d = (int(value) for value in np.frombuffer(matrix, np.int32)[:5])  # (x, y) to (ax + cy, bx + dy)
        sideways = abs(b) > abs(a)
        left, up = (c < 0, b < 0) if sideways else (a < 0, d < 0)
        return 1 + 4 * sideways + 2 * up + (left != up)

    def _rgb(self, frame: Any) -> np.ndarray:
        return frame.reformat(
            format="rgb48le" if self.deep else "rgb24",
            src_colorspace=None if frame.format.is_rgb else self.matrix,
            src_color_range=FULL_RANGE if self.full_range or frame.format.is_rgb else LIMITED_RANGE,
            dst_color_range=FULL_RANGE,
            interpolation="BICUBIC",
        ).to_ndarray()

    def _announced_end(self) -> Fraction:
        """When the last frame should end, in seconds; 0 if the file does not note it of the pictures alone."""
        stream = self.stream
        if stream.duration:
            return (stream.duration + (stream.start_time or 0)) * stream.time_base
        return Fraction(self.source.duration or 0, 1_000_000) if len(self.source.streams) == 1 else Fraction(0)

    def _broken(self, count: int, why: object) -> InputError:
        announced = f" of {self.frames}" if self.frames else ""
        reason = " ".join(str(why).split())
        return InputError(f"{self.path}: reading ends after {count}{announced} frames ({reason}); repair or convert it")


@contextlib.contextmanager
def open_video(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Iterator[Video]:
    """Open a video (MP4, MOV, Matroska, WebM or AVI) for reading; iterate over it for its frames.

    The content decides on the container, not the name. The rotation that the file notes is applied. Videos of more
    than eight bits, HDR too, come as 16-bit, in their own transfer curve. Frames of more than `max_pixels` are refused.

    Raises:
        InputError: If PyAV is not installed, or the file cannot be read, is broken or has no pictures.
    """
    import_av()  # before anything about the file
    source = os.fspath(path)
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(open_container(stack.enter_context(open(path, "rb"))))
        except errors() as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"{source}: cannot be read as a video ({reason}); expected {_EXPECTED}") from error
        yield _video(source, container, max_pixels)


def _video(source: str, container: Any, max_pixels: int) -> Video:
    pictures = [stream for stream in container.streams.video if not stream.disposition & ATTACHED]
    name = _DEMUXERS.get(container.format.name)
    if name is None or not pictures:
        what = "no moving pictures" if name else f"the format {container.format.name}"
        raise InputError(f"{source}: has {what}; expected a video as {_EXPECTED}")
    if name != "MP4" and not is_whole(source):
        raise InputError(f"{source}: ends too early; repair or replace it")
    stream = pictures[0]
    context = stream.codec_context
    kind = context.format if context else None  # neither is there for a codec that FFmpeg does not know
    if kind is None:
        raise InputError(f"{source}: its pictures cannot be decoded; repair it, or convert it, for example to H.264")
    stream.thread_type = "AUTO"
    context.options = {"err_detect": "explode"}  # else damaged frames are patched and passed on
    height, width = stream.height, stream.width
    if not 0 < height * width <= max_pixels:
        raise InputError(f"{source}: has frames of {width} × {height} pixels, expected 1 to {max_pixels}; convert it")
    rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
    frames = stream.frames or None
    if not frames and container.duration:
        frames = max(1, round(container.duration * rate / 1_000_000))
    video = Video(
        path=source,
        container=name,
        height=height,
        width=width,
        deep=max(part.bits for part in kind.components) > 8,
        rate=rate,
        time_base=stream.time_base or 1 / rate,
        frames=frames,
        source=container,
        stream=stream,
    )
    video._begin()
    if len(container.streams.video) > 1:  # a cover, for example
        video.note("only its first pictures are kept")
    if any(part.is_alpha for part in kind.components):
        video.note("its alpha is dropped")
    if video.deep and context.color_trc in (16, 18):
        video.note("its HDR metadata beyond the transfer curve are dropped")
    return video


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether a Matroska or AVI file is as long as its header says; False for other formats."""
    with open(path, "rb") as file:
        kind, size = file.read(4), os.fstat(file.fileno()).st_size
        if kind == b"RIFF":
            return int.from_bytes(file.read(4), "little") + 8 <= size
        if kind != b"\x1aE\xdf\xa3":
            return False
        file.seek(_ebml_number(file)[0], os.SEEK_CUR)
        if file.read(4) != _SEGMENT:
            return True
        length, unknown = _ebml_number(file)
        return length == unknown or file.tell() + length <= size


def _ebml_number(file: BinaryIO) -> tuple[int, int]:
    """A number of Matroska, and the largest of its length, which means that it is not known."""
    first = file.read(1) or b"\0"
    more = 8 - first[0].bit_length()
    unknown = (1 << 7 * (more + 1)) - 1
    return int.from_bytes(first + file.read(more), "big") & unknown, unknown


def open_container(file: BinaryIO) -> Any:
    """Open a video with PyAV, of the file itself, since FFmpeg takes names for addresses and wants them in UTF-8."""
    return import_av().open(file, container_options=_SAFE)


def import_av() -> Any:
    """Import PyAV.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise InputError('videos need PyAV, which is not installed; run pip install "nlcl_plugin[video]"') from error
    return av


def errors() -> tuple[type[Exception], ...]:
    """What PyAV raises for broken files."""
    return (import_av().error.FFmpegError, OSError, ValueError, RuntimeError)
