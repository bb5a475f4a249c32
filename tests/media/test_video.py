"""Videos are made with PyAV, as no other library here writes sound; pixels are compared with OpenCV's."""

import os
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from nlcl_plugin.errors import InputError
from nlcl_plugin.media.video import open_video
from nlcl_plugin.media.video_writing import write_video
from nlcl_plugin.prepare.inspection import choose_frames
from nlcl_plugin.prepare.model import SourceImage

av = pytest.importorskip("av")

COUNT = 12
SOUNDS = {".webm": "libopus", ".mkv": "libopus", ".avi": "libmp3lame"}


def picture(number, height=48, width=64):
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 3 + number * 4, rows * 4, (rows + columns) * 2], -1).clip(0, 255).astype(np.uint8)


def make(
    path, *, codec="libx264", pixels="yuv420p", size=(48, 64), times=None, last=None, sound=False, rotation=0, **options
):
    """Write a video of a moving ramp.

    Args:
        path: The file.
        codec: FFmpeg's name.
        pixels: The pixel format.
        size: Height and width.
        times: When each frame is shown, in milliseconds; by default 25 a second.
        last: How long the last frame is shown, in milliseconds.
        sound: Add a tone.
        rotation: In degrees, counter-clockwise, or a display matrix.
        options: Of the container (`container`), the colours (`colours`), or else of the encoder.
    """
    times = [40 * number for number in range(COUNT)] if times is None else times
    colours = options.pop("colours", {})
    with av.open(str(path), "w", options=options.pop("container", {})) as output:
        stream = output.add_stream(codec, rate=25, options=options or ({"crf": "1"} if "26" in codec else {}))
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        stream.codec_context.time_base = Fraction(1, 1000)
        if path.suffix == ".avi":
            stream.codec_context.time_base = Fraction(1, 25)
        for key, value in colours.items():
            setattr(stream.codec_context, key, value)
        if isinstance(rotation, int):
            stream.set_display_rotation(rotation)
        else:
            stream.set_display_matrix(rotation)
        tone = output.add_stream(SOUNDS.get(path.suffix, "aac"), rate=48000) if sound else None
        if tone:
            tone.metadata["language"] = "deu"
            samples = np.sin(np.arange(48000 * (times[-1] + 40) // 1000) / 20).astype(np.float32)
            for start in range(0, len(samples) - 960, 960):
                frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960], "fltp", "mono")
                frame.rate, frame.pts = 48000, start
                output.mux(tone.encode(frame))
            output.mux(tone.encode(None))
        durations = dict(zip(times, [*np.diff(times), last], strict=True))
        for number, time in enumerate([*times, None]):
            frame = None
            if time is not None:
                frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
            for packet in stream.encode(frame):
                if last is not None:
                    packet.duration = round(
                        durations[round(packet.pts * packet.time_base * 1000)] / packet.time_base / 1000
                    )
                output.mux(packet)
    return path


def copy(path, target=None, change=lambda rgb: rgb):
    """Write a video like another one; give its path and what was read."""
    target = target or path.with_name("out_" + path.name)
    with open_video(path) as video, write_video(target, video) as writer:
        frames = []
        for frame in video:
            frames.append(frame)
            writer.write(change(frame.rgb), frame)
    return target, video, frames


def read(path):
    with open_video(path) as video:
        return video, list(video)


def by_opencv(path):
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        done, frame = capture.read()
        if not done:
            return frames
        frames.append(frame[..., ::-1])


def psnr(a, b):
    scale = 255 / np.iinfo(a.dtype).max
    return cv2.PSNR(a.astype(np.float64) * scale, b.astype(np.float64) * scale)


FASTSTART = {"container": {"movflags": "faststart"}}
KINDS = [
    ("a.mp4", {}),
    ("a.mov", {"pixels": "yuv422p"}),
    ("a.mkv", {"pixels": "yuv444p"}),
    ("a.webm", {"codec": "libvpx-vp9"}),
    ("a.avi", {"codec": "mpeg4"}),
    ("odd.mp4", {"codec": "libvpx-vp9", "size": (49, 65)}),
    ("odd.avi", {"codec": "mjpeg", "pixels": "yuvj444p", "size": (49, 65)}),
    ("deep.mp4", {"codec": "libx265", "pixels": "yuv420p10le", "crf": "5"}),
    ("deep.webm", {"codec": "libsvtav1", "pixels": "yuv420p10le", "crf": "5"}),
]


class TestThereAndBack:
    @pytest.mark.parametrize(("name", "options"), KINDS)
    def test_frames_are_those_of_opencv_and_come_back_at_their_times(self, tmp_path, name, options):
        path = make(tmp_path / name, **options)
        target, video, frames = copy(path)
        assert len(frames) == video.frames == COUNT
        assert video.deep == name.startswith("deep")
        seen = [] if video.deep else by_opencv(path)
        for frame, other in zip(frames, seen, strict=bool(seen)):
            assert np.abs(frame.rgb.astype(int) - other).max() <= 3  # other rounding
        again, back = read(target)
        assert (again.container, back[0].rgb.dtype) == (video.container, np.uint16 if video.deep else np.uint8)
        for old, new in zip(frames, back, strict=True):
            assert old.pts * video.time_base == new.pts * again.time_base
            assert new.rgb.shape == old.rgb.shape == (*options.get("size", (48, 64)), 3)
            assert psnr(old.rgb, new.rgb) > (36 if "size" in options else 38)
        assert back[-1].duration * again.time_base == Fraction(1, 25)
        for old, new in zip(seen, by_opencv(target), strict=bool(seen)):
            assert psnr(old, new) > (36 if "size" in options else 38)

    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
    def test_variable_frame_rates_and_late_starts_are_kept(self, tmp_path, name):
        times = [200, 233, 240, 400, 900, 901, 1500, 1533]
        video, back = read(copy(make(tmp_path / name, times=times, sound=True))[0])
        assert [round(frame.pts * video.time_base * 1000) for frame in back] == times

    def test_lossless_codecs_stay_exact(self, tmp_path):
        for name, pixels in (("a.avi", "bgr0"), ("a.mkv", "bgr0"), ("b.mkv", "yuv420p"), ("c.mkv", "rgb48le")):
            target, video, frames = copy(make(tmp_path / name, codec="ffv1", pixels=pixels), change=lambda a: a[::-1])
            assert video.deep == (pixels == "rgb48le")
            for old, new in zip(frames, read(target)[1], strict=True):
                np.testing.assert_array_equal(new.rgb, old.rgb[::-1])

    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("a.mp4", {"codec": "libx265", "pixels": "yuv420p10le", "bf": "0"}),
            ("a.mkv", {}),
            ("a.avi", {"codec": "mjpeg", "pixels": "yuvj420p"}),
        ],
    )
    def test_a_long_last_frame_stays_long(self, tmp_path, name, options):
        times = [0, 80, 200, 280, 400]
        path = make(tmp_path / name, times=times, last=3000, **options)
        target, video, frames = copy(path)
        assert len(frames) == len(times)
        again, back = read(target)
        for seen, base in ((frames, video.time_base), (back, again.time_base)):
            assert [round(frame.pts * base * 1000) for frame in seen] == times
            assert [round(frame.duration * base * 1000) for frame in seen] == [80, 120, 80, 120, 3000]

    def test_mirrored_and_turned_pictures_are_set_upright(self, tmp_path):
        rows, columns = np.mgrid[:48, :64]
        for a, b, c, d in [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [
            (0, b, c, 0) for b in (1, -1) for c in (1, -1)
        ]:
            one = 1 << 16
            matrix = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30]
            target, video, frames = copy(make(tmp_path / "a.mp4", rotation=matrix))
            to_x, to_y = a * columns + c * rows, b * columns + d * rows  # the matrix as FFmpeg defines it
            expected = np.zeros((video.height, video.width, 3), np.uint8)
            expected[to_y - to_y.min(), to_x - to_x.min()] = picture(0)
            assert psnr(frames[0].rgb, expected) > 35
            again, back = read(target)
            assert again.orientation == 1
            assert psnr(back[0].rgb, expected) > 33

    @pytest.mark.parametrize(("colorspace", "trc", "full"), [(1, 1, 2), (5, 6, 1), (9, 18, 1)])
    def test_colours_are_kept_and_tagged(self, tmp_path, colorspace, trc, full):
        colours = {"colorspace": colorspace, "color_trc": trc, "color_primaries": colorspace, "color_range": full}
        path = make(tmp_path / "a.mp4", colours=colours)
        target, _, frames = copy(path)
        with av.open(str(target)) as container:
            context = container.streams.video[0].codec_context
            found = {key: int(getattr(context, key)) for key in colours}
        assert found == colours
        for old, new in zip(frames, read(target)[1], strict=True):
            assert np.abs(old.rgb.astype(float).mean((0, 1)) - new.rgb.mean((0, 1))).max() < 3


class TestWhatIsBesideThePictures:
    @pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi"])
    def test_sound_is_copied_byte_by_byte(self, tmp_path, name):
        codec = {"a.webm": "libvpx-vp9", "a.avi": "mpeg4"}.get(name, "libx264")
        path = make(tmp_path / name, codec=codec, sound=True)
        target, video, _ = copy(path)
        assert video.notes == []

        def packets(path):
            with av.open(str(path)) as container:
                stream = container.streams.audio[0]
                return [
                    (bytes(packet), float(packet.pts * packet.time_base))
                    for packet in container.demux(stream)
                    if packet.dts is not None
                ]

        old, new = packets(path), packets(target)
        assert [data for data, _ in old] == [data for data, _ in new]
        assert [time for _, time in new] == pytest.approx([time for _, time in old], abs=0.002)
        with av.open(str(target)) as container:
            language = container.streams.audio[0].metadata.get("language")
        with av.open(str(path)) as container:
            assert language == container.streams.audio[0].metadata.get("language")

    def test_subtitles_and_titles_are_copied(self, tmp_path):
        plain = make(tmp_path / "plain.mkv")
        (tmp_path / "a.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nRegen\n")
        path = tmp_path / "a.mkv"
        with av.open(str(plain)) as one, av.open(str(tmp_path / "a.srt")) as two, av.open(str(path), "w") as output:
            output.metadata["title"] = "Ü"
            streams = [(one, one.streams.video[0]), (two, two.streams.subtitles[0])]
            added = [output.add_stream_from_template(stream) for _, stream in streams]
            for (container, stream), to in zip(streams, added, strict=True):
                for packet in list(container.demux(stream)):
                    if packet.size:
                        packet.stream = to
                        output.mux(packet)
        target, _, _ = copy(path)
        with av.open(str(target)) as container:
            assert container.metadata["title"] == "Ü"
            assert [bytes(p) for p in container.demux(container.streams.subtitles[0]) if p.dts is not None] == [
                b"Regen"
            ]

    def test_chapters_are_kept_and_data_is_left_out_and_said(self, tmp_path):
        path = tmp_path / "a.mp4"
        chapter = {"id": 0, "start": 0, "end": 200, "time_base": Fraction(1, 1000), "metadata": {"title": "Regen"}}
        with av.open(str(path), "w") as output:
            output.set_chapters([chapter])
            pictures = output.add_stream("libx264", rate=25)
            pictures.width, pictures.height = 64, 48
            data = output.add_data_stream("bin_data")
            for number in range(COUNT):
                output.mux(pictures.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
            output.mux(pictures.encode(None))
            for number in range(3):
                packet = av.Packet(b"place %d" % number)
                packet.stream, packet.time_base = data, Fraction(1, 10)
                packet.pts = packet.dts = number
                output.mux(packet)
        target, video, _ = copy(path)
        assert video.notes == ["its data cannot be copied into this container and is left out"]
        with av.open(str(target)) as container:
            assert container.chapters() == [chapter]


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("name", "options", "sound"),
        [("a.mp4", FASTSTART, True), ("a.mp4", FASTSTART, False), ("a.mkv", {}, True),
         ("a.webm", {"codec": "libvpx-vp9"}, False), ("a.avi", {"codec": "mpeg4"}, True)],
    )  # fmt: skip
    def test_cut_videos_are_an_error_and_leave_nothing(self, tmp_path, name, options, sound):
        path = make(tmp_path / name, times=[40 * n for n in range(50)], sound=sound, size=(120, 160), **options)
        whole = path.read_bytes()
        for part in (0.02, 0.5, 0.7):
            path.write_bytes(whole[: int(part * len(whole))])
            with pytest.raises(
                InputError,
                match=r"a\.\w+: (reading ends after \d+|ends too early|cannot be read|has no|its pictures cannot)",
            ):
                copy(path)
            assert os.listdir(tmp_path) == [name]

    def test_damaged_frames_are_an_error(self, tmp_path):
        path = make(tmp_path / "a.mp4", times=[40 * n for n in range(50)], size=(120, 160))
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"a\.mp4: reading ends after \d+ of 50 frames"):
            copy(path)

    def test_other_files_are_named(self, tmp_path):
        playlist = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/hostname\n"
        for data in (b"", b"hello" * 100, playlist, None):
            (tmp_path / "x.mp4").write_bytes(data) if data is not None else (tmp_path / "x.mp4").unlink()
            with pytest.raises(InputError, match=r"x\.mp4: cannot be read as a video"), open_video(tmp_path / "x.mp4"):
                pass
        path = make(tmp_path / "a.mp4")
        with pytest.raises(InputError, match="64 × 48 pixels, expected 1 to 3000"), open_video(path, max_pixels=3000):
            pass

    def test_an_error_in_between_leaves_the_old_file(self, tmp_path):
        path = make(tmp_path / "a.mp4")
        (tmp_path / "b.mp4").write_bytes(b"old")
        with pytest.raises(ZeroDivisionError):
            copy(path, tmp_path / "b.mp4", change=lambda rgb: 1 / 0)
        assert (tmp_path / "b.mp4").read_bytes() == b"old"
        assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]

    def test_without_pyav_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(InputError, match=r'run pip install "nlcl_plugin\[video\]"'), open_video("a.mp4"):
            pass


def test_prepared_frames_of_a_long_last_frame_are_no_cut(tmp_path):
    path = make(tmp_path / "a.mkv", times=[0, 80, 200, 280, 400], last=3000)
    source = SourceImage(str(path), "a.mkv")
    assert [frame.part for frame, _ in choose_frames(source, 1)] == [f"frame={number}" for number in range(5)]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(InputError, match=r"reading ends after \d+ of \d+ frames|no frame of this"):
        list(choose_frames(source, 1))
