"""Write a video like another one, with other pixels."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import writing_to
from nlcl_plugin.media.photograph.writing import pixels_like
from nlcl_plugin.media.video import FULL_RANGE, LIMITED_RANGE, Frame, Video, errors, import_av, open_container

_JPEG_MATRIX = 5  # BT.601
_LAMBDA = 118  # FFmpeg's unit of quality
_UNREAD = 48  # FFmpeg's mark of the stream that holds the names of the chapters
_STALE_TAGS = {"encoder", "major_brand", "minor_version", "compatible_brands", "duration"}


def encoder_like(video: Video) -> tuple[str, str, dict[str, str]]:
    """Choose the encoder for a video like another one.

    H.264 with a constant rate factor of 16, at which losses are hardly seen; more than eight bits take H.265, WebM
    takes VP9 or AV1, AVI takes Motion JPEG of the highest quality, and what was in a lossless codec becomes FFV1 where
    the container has it. Chroma is as coarse as it was, but full for odd sizes, which H.264 has no coarse chroma for.
    The pair of names, of encoder and pixel format, and the options are FFmpeg's.
    """
    format_ = _format(video)
    codec, kind = video.stream.codec_context.codec, video.stream.codec_context.format
    if codec.lossless and not codec.lossy and format_ in ("matroska", "avi"):
        return "ffv1", "gbrp16le" if video.deep else "bgr0", {}
    if format_ == "webm":
        if video.deep:
            return "libsvtav1", "yuv420p10le", {"crf": "18", "preset": "6"}
        return "libvpx-vp9", "yuv420p", {"crf": "16", "b": "0", "cpu-used": "4", "row-mt": "1"}
    across, down = (2 // max(1, kind.chroma_width(2)), 2 // max(1, kind.chroma_height(2)))
    turned = video.orientation >= 5 and (across, down) == (2, 1)  # codecs have none that is coarse down alone
    if turned or kind.is_rgb or video.width % across or video.height % down:
        across, down = 1, 1
    chroma = {(2, 2): "420", (2, 1): "422"}.get((across, down), "444")
    if format_ == "avi":  # which has no times of display, so that no codec may change the order of frames
        return "mjpeg", f"yuvj{chroma}p", {"flags": "+qscale", "global_quality": str(2 * _LAMBDA)}
    # MP4 keeps times from packet to packet, which are those of frames only where their order is the same.
    options = {"crf": "16"} if format_ == "matroska" else {"crf": "16", "bf": "0"}
    if video.deep:
        return "libx265", f"yuv{chroma}p10le", {**options, "x265-params": "log-level=error"}
    return "libx264", f"yuv{chroma}p", options


def _format(video: Video) -> str:
    suffix = Path(video.path).suffix.lower()
    if video.container == "Matroska":
        return "webm" if suffix == ".webm" else "matroska"
    if video.container == "AVI":
        return "avi"
    brand = video.source.metadata.get("major_brand", "")
    return "mov" if suffix == ".mov" or brand.startswith("qt") else "mp4"


class VideoWriter:
    """Encodes frames, and copies sound and subtitles; what cannot be kept goes to `like.notes`. See `write_video`."""

    def __init__(self, path: Path, output: Any, source: Any, like: Video):  # PyAV's containers
        self._path = path
        self._output, self._like = output, like
        self._codec, self._pixels, self._options = encoder_like(like)
        self._coloured = self._pixels.startswith("yuv")
        jpeg = self._codec == "mjpeg"
        self._matrix = _JPEG_MATRIX if jpeg else like.matrix
        self._range = FULL_RANGE if jpeg or like.full_range else LIMITED_RANGE
        self._stream = self._video_stream()
        self._durations: dict[int, int] = {}
        self._copies: dict[int, Any] = {}
        for stream in source.streams:
            self._add_copy(stream)
        output.metadata.update({key: text for key, text in source.metadata.items() if key.lower() not in _STALE_TAGS})
        output.set_chapters(source.chapters())
        wanted = [stream for stream in source.streams if stream.index in self._copies]
        self._packets = iter(source.demux(wanted) if wanted else ())
        self._ahead: Any = None

    def _add_copy(self, stream: Any) -> None:
        if stream.type == "video" or stream.discard == _UNREAD:
            return  # the pictures, and the chapters, which are made anew
        if stream.type in ("audio", "subtitle") and _fits(stream, self._output.format.name):
            copy = self._output.add_stream_from_template(stream, opaque=True)
            copy.metadata.update(stream.metadata)
            copy.disposition = stream.disposition
            self._copies[stream.index] = copy
        else:
            self._like.note(f"its {stream.type} cannot be copied into this container and is left out")

    def _video_stream(self) -> Any:
        like = self._like
        stream = self._output.add_stream(self._codec, rate=like.rate, options=self._options)
        context, old = stream.codec_context, like.stream.codec_context
        stream.width, stream.height, stream.pix_fmt = like.width, like.height, self._pixels
        context.time_base = like.time_base
        context.thread_type = "AUTO"
        aspect = like.stream.sample_aspect_ratio
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if like.orientation >= 5 else aspect
        context.color_primaries, context.color_trc = old.color_primaries, old.color_trc
        if self._coloured:
            context.colorspace, context.color_range = self._matrix, self._range
        if self._codec == "libx265" and like.container == "MP4":
            context.codec_tag = "hvc1"  # the one that Apple's players know
        wanted = ("language", "title")
        stream.metadata.update({key: text for key, text in like.stream.metadata.items() if key.lower() in wanted})
        return stream

    def write(self, rgb: np.ndarray, like: Frame) -> None:
        """Write the next frame in the place of another: (H, W, 3) RGB of the type of `like.rgb`, or floats in [0, 1].

        Raises:
            InputError: If it cannot be encoded or written.
            ValueError: If the shape or the type is another.
        """
        rgb = pixels_like(rgb, like.rgb)
        kind = "rgb48le" if self._like.deep else "rgb24"
        frame = import_av().VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format=kind)
        frame = frame.reformat(
            format=self._pixels,
            dst_colorspace=self._matrix if self._coloured else None,
            src_color_range=FULL_RANGE,
            dst_color_range=self._range if self._coloured else FULL_RANGE,
            interpolation="BICUBIC",
        )
        frame.pts, frame.time_base = like.pts, self._like.time_base
        self._durations[like.pts] = like.duration
        with writing_to(self._path, *errors()):
            self._mux(frame)

    def finish(self) -> None:
        """Write what the encoder still holds and the rest of the copies."""
        self._mux(None)
        self._copy(None)

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            packet.duration = self._durations.pop(packet.pts, packet.duration)  # which not all encoders pass on
            if packet.dts is not None:
                self._copy(packet.dts * packet.time_base)
            self._output.mux(packet)

    def _copy(self, until: Any) -> None:
        """Copy what comes before a time in seconds, so that the streams lie side by side in the file."""
        while True:
            packet = self._ahead or next(self._packets, None)
            self._ahead = None
            if packet is None:
                return
            if not packet.size:  # the one at the end of each stream
                continue
            time = packet.dts if packet.dts is not None else packet.pts
            if None not in (until, time) and time * packet.time_base > until:
                self._ahead = packet
                return
            packet.stream = self._copies[packet.stream.index]
            self._output.mux(packet)


def _fits(stream: Any, format_: str) -> bool:
    """Whether a container takes a stream, which only shows when its header is written."""
    trial = import_av().open(io.BytesIO(), "w", format=format_)
    try:
        trial.add_stream_from_template(stream, opaque=True)
        trial.start_encoding()
    except errors():
        return False
    finally:
        with contextlib.suppress(*errors()):  # some miss their packets
            trial.close()
    return True


@contextlib.contextmanager
def write_video(path: str | os.PathLike[str], like: Video) -> Iterator[VideoWriter]:
    """Write a video in the container of another, whose frames are replaced, with its sound, subtitles, chapters, tags.

    Variable frame rates are kept. Frames are written the right way up, without a note of rotation. The file gets its
    name when it is whole; after an error nothing is left. Missing folders are made.

    Raises:
        InputError: If it cannot be encoded or written.
    """
    av = import_av()
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with writing_to(path, *errors()):
            path.parent.mkdir(parents=True, exist_ok=True)
            source = stack.enter_context(open_container(stack.enter_context(open(like.path, "rb"))))
            file = stack.enter_context(written_whole(path))
            output = av.open(file, "w", format=_format(like))
        try:
            with writing_to(path, *errors()):
                writer = VideoWriter(path, output, source, like)
            yield writer
            with writing_to(path, *errors()):
                writer.finish()
        except BaseException:
            with contextlib.suppress(Exception):  # it has nothing more to say than what is on its way
                output.close()
            raise
        with writing_to(path, *errors()):
            output.close()
            stack.close()  # gives the file its name
