import cv2
import numpy as np
import pytest
import skimage.data
from prepare_rain_dataset import main

from nlcl_plugin.data.image_io import read_image, to_uint8
from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.quality import psnr
from nlcl_plugin.prepare import static_video
from nlcl_plugin.prepare.static_video import make_static_pairs, separate
from nlcl_plugin.rain.renderer import render_rain

SIZE = (120, 160)


def clip(count=21, shake=0.0):
    """Frames of a crop that moves, under new rain in each, and the crops without rain."""
    rng = np.random.default_rng(0)
    image, frames, truths = skimage.data.coffee()[60:260, 100:340], [], []
    for _ in range(count):
        warp = np.float32([[1, 0, 40 + shake * rng.normal()], [0, 1, 40 + shake * rng.normal()]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        crop = cv2.warpAffine(image, warp, SIZE[::-1], flags=flags)
        layer = render_rain(SIZE, rng)[..., None]
        truths.append(crop)
        frames.append(to_uint8(np.clip(crop / 255 + 0.6 * layer, 0, 1)))
    return frames, truths


@pytest.mark.parametrize(("shake", "least"), [(0.0, 45), (2.0, 37)])
def test_the_scene_behind_rain_is_found_with_a_still_and_a_shaking_camera(shake, least):
    frames, truths = clip(shake=shake)
    pair = separate(frames, 10)
    margin = (SIZE[0] - pair.clean.shape[0]) // 2
    assert (margin == 0) == (shake == 0)
    truth = truths[10][margin : SIZE[0] - margin, margin : SIZE[1] - margin]
    assert psnr(pair.clean, truth) >= least
    assert psnr(pair.clean, truth) > psnr(pair.rainy, truth) + 3
    expected = (pair.rainy.astype(int) - pair.clean).min(axis=2).clip(0)
    np.testing.assert_array_equal(pair.rain, expected)


def test_where_something_moved_the_pair_is_equal_and_elsewhere_it_is_not():
    frames, _ = clip()
    for number, frame in enumerate(frames):  # a dark car that passes
        frame[80:110, 6 * number : 6 * number + 30] = (30, 20, 60)
    pair = separate(frames, 10)
    margin = (SIZE[0] - pair.clean.shape[0]) // 2  # a large car misleads the search for some of the frames
    assert margin <= 15
    car = slice(80 - margin, 110 - margin), slice(60 - margin, 90 - margin)
    np.testing.assert_array_equal(pair.clean[car], pair.rainy[car])
    assert not pair.rain[car].any()
    assert (pair.clean[:60] != pair.rainy[:60]).any(axis=2).mean() > 0.1


def test_other_scenes_and_much_motion_are_no_pairs():
    frames, _ = clip(count=12)
    others = [np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), dtype=np.uint8) for seed in range(20)]
    with pytest.raises(InputError, match="of 21 frames show the same scene from nearby, expected 9 or more"):
        separate([*others, frames[0]], 20)
    dark = frames[0] // 3
    with pytest.raises(InputError, match="of the frame moved, expected at most 50%"):
        separate([dark, *frames], 0)


def write_clip(path, frames):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, SIZE[::-1])
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()


def test_a_video_becomes_folders_of_pairs_and_rain_and_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(static_video, "WINDOW", 11)
    frames, truths = clip(count=25)
    write_clip(tmp_path / "yard.avi", frames)
    pairs, left_out = make_static_pairs([tmp_path / "yard.avi"], tmp_path / "out", every=8)
    names = [f"yard_{number:06d}.png" for number in (0, 8, 16, 24)]
    assert (pairs, left_out) == (4, [])
    for kind in ("val_rainy", "val_clean", "rain"):
        assert sorted(path.name for path in (tmp_path / "out" / kind).iterdir()) == names
    for number, name in zip((0, 8, 16, 24), names, strict=True):
        rainy, clean = (to_uint8(read_image(tmp_path / "out" / kind / name)) for kind in ("val_rainy", "val_clean"))
        np.testing.assert_array_equal(rainy, frames[number])
        assert psnr(clean, truths[number]) > 35
    assert read_image(tmp_path / "out" / "summary.png").shape[1] > 1200
    with pytest.raises(InputError, match="not an empty folder"):
        make_static_pairs([tmp_path / "yard.avi"], tmp_path / "out")


def test_two_videos_of_one_name_would_overwrite_each_other_and_are_refused(tmp_path):
    videos = [tmp_path / "short.avi", tmp_path / "more" / "short.avi"]
    with pytest.raises(InputError, match="equal names"):
        make_static_pairs(videos, tmp_path / "out")


def test_the_tool_takes_videos_and_a_broken_one_costs_no_other_its_pairs(tmp_path, capsys):
    write_clip(tmp_path / "yard.avi", clip(count=12)[0])
    (tmp_path / "torn.avi").write_bytes(b"RIFF" + bytes(200))
    videos = [str(tmp_path / name) for name in ("yard.avi", "torn.avi")]
    arguments = ["--layout", "static-video", "--output", str(tmp_path / "out")]
    assert main([*videos, *arguments, "--copy"]) == 2
    assert "--copy: is not for --layout static-video" in capsys.readouterr().err
    assert main(arguments) == 2
    assert "received no video" in capsys.readouterr().err
    assert main([*videos, *arguments]) == 3
    printed = capsys.readouterr().out
    assert "1 pair in val_rainy and val_clean" in printed
    assert "torn.avi: no frame of this video can be read" in printed
    assert (tmp_path / "out" / "rain" / "yard_000000.png").is_file()
