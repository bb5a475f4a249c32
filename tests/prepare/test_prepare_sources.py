"""Files as they are found in the wild: formats, names, links, other file systems, videos."""

import errno
import hashlib
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image
from prepare_helpers import rain, records, scene, tool, write_image, write_pair

from nlcl_plugin.data import read_image
from nlcl_plugin.prepare.inspection import choose_frames, extract_frames
from nlcl_plugin.prepare.model import SourceImage
from nlcl_plugin.prepare.scan import split_of


@pytest.fixture
def command(tmp_path):
    for seed in range(2):
        write_image(tmp_path / "c" / f"clean{seed}.png", scene(90 + seed))
        write_image(tmp_path / "r" / f"rainy{seed}.png", scene(80 + seed))
    folders = ["--rainy", str(tmp_path / "r"), "--clean", str(tmp_path / "c")]
    return ["--layout", "two-folders", *folders, "--output", str(tmp_path / "out")]


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)


def turned(path):
    """What is upright in EXIF's eyes lies on its side in the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(path, np.rot90(scene(1)).copy(), exif=exif)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("turned.JPG", turned),
        ("grey.Bmp", lambda path: save(path, scene(1)[..., 0])),
        ("deep.TIF", lambda path: path.write_bytes(cv2.imencode(".tif", scene(1).astype(np.uint16) * 257)[1])),
        ("jpeg.JPEG", lambda path: save(path, scene(1))),
    ],
)
def test_formats_pass_unchanged_and_upright(command, tmp_path, name, make):
    make(tmp_path / "r" / name)
    assert tool().main(command) == 0
    line = next(line for line in records(tmp_path / "out") if line["source"] == f"rainy/{name}")
    assert (line["width"], line["height"]) == (56, 40)
    stem, ending = os.path.splitext(name)
    lower = {".jpeg": ".jpg", ".tif": ".tiff"}.get(ending.lower(), ending.lower())
    assert line["path"] == f"rainy/{stem}{lower}"
    assert (tmp_path / "out" / line["path"]).read_bytes() == (tmp_path / "r" / name).read_bytes()


@pytest.mark.parametrize("deep", [False, True])
def test_halves_keep_their_pixels(tmp_path, deep):
    factor = 257 if deep else 1
    for seed in range(4):
        both = np.hstack([rain(scene(seed), seed), np.zeros((40, 1, 3), np.uint8), scene(seed)])
        path = tmp_path / "s" / f"{seed}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(".png", both[..., ::-1].astype(np.uint16 if deep else np.uint8) * factor)[1])
    command = [str(tmp_path / "s"), "--layout", "side-by-side", "--rain-side", "left", "--keep-twins"]
    assert tool().main([*command, "--output", str(tmp_path / "out")]) == 0
    for line in records(tmp_path / "out"):
        seed = int(line["source"][0])
        expected = scene(seed) if line["role"] == "clean" else rain(scene(seed), seed)
        assert np.abs(read_image(tmp_path / "out" / line["path"]) - expected.astype(np.float32) / 255).max() < 1e-6


def test_a_link_that_fails_becomes_a_copy(command, tmp_path, capsys, monkeypatch):
    def link(source, target, **options):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)
    assert tool().main(command) == 0
    assert "0 linked, 4 written" in capsys.readouterr().out
    for line in records(tmp_path / "out"):
        path = tmp_path / "out" / line["path"]
        assert path.stat().st_nlink == 1
        assert path.read_bytes() == (tmp_path / line["source"][0] / os.path.basename(line["source"])).read_bytes()
    assert tool().main(command) == 0
    assert "4 there already" in capsys.readouterr().out


def test_unreadable_files_are_listed_and_all_others_prepared(tmp_path, capsys):
    strange = [
        os.fsdecode(name) for name in (b"two\nlines", b"\x1b[31mred", b"\xff\xfe", b"-rf", b"\xe2\x80\xae", b"=..%")
    ]
    unreadable = ("empty", "cut", "loop", "nowhere", "huge")
    rainy = tmp_path / "r"
    for seed, name in enumerate([*strange, *unreadable]):
        write_pair(rainy / f"{name}.png", tmp_path / "c" / f"{name}.png", seed)
    data = (rainy / "cut.png").read_bytes()
    for name in unreadable:
        (rainy / f"{name}.png").unlink()
    (rainy / "empty.png").touch()
    (rainy / "cut.png").write_bytes(data[:60])
    (rainy / "loop.png").symlink_to("loop.png")
    (rainy / "nowhere.png").symlink_to("/nowhere/at/all.png")
    with open(rainy / "huge.png", "wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(rainy / "pipe.png")
    (rainy / "device.png").symlink_to("/dev/zero")
    (rainy / "self").symlink_to(".")
    (rainy / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:9,\nfile:///etc/passwd\n")
    command = ["--pair-by", "stem", "--rainy", str(rainy), "--clean", str(tmp_path / "c"), "--keep-twins"]
    assert tool().main([*command, "--output", str(tmp_path / "out")]) == 3
    out, err = capsys.readouterr()
    assert (err, all(line.isprintable() for line in out.splitlines())) == ("", True)
    listed = "\n".join(line for line in out.splitlines() if line.startswith("unreadable: "))
    assert all(f"{name}.png" in listed for name in unreadable)
    lines = records(tmp_path / "out")
    assert {line["source"] for line in lines} == {f"{name}.png" for name in strange}
    for line in lines:
        path = tmp_path / "out" / line["path"]
        assert path.name.isprintable()
        assert hashlib.sha256(path.read_bytes()).hexdigest() == line["sha256"]


def write_video(path, count, size=(56, 40)):
    path.parent.mkdir(exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, size)
    for number in range(count):
        blur = np.random.default_rng(number).uniform(0.3, 3)
        writer.write(cv2.GaussianBlur(scene(number), (0, 0), blur))
    writer.release()


@pytest.mark.parametrize("every", [1, 7, 50])
def test_chosen_frames_against_a_slow_reference(tmp_path, every):
    write_video(tmp_path / "walk.avi", 17)
    capture = cv2.VideoCapture(str(tmp_path / "walk.avi"))
    all_frames = [capture.read()[1] for _ in range(17)]
    capture.release()
    sharp = [cv2.Laplacian(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), cv2.CV_64F).var() for frame in all_frames]
    expected = [max(range(start, min(start + every, 17)), key=sharp.__getitem__) for start in range(0, 17, every)]
    video = SourceImage(str(tmp_path / "walk.avi"), "walk.avi")
    chosen = list(choose_frames(video, every))
    assert [source.part for source, _ in chosen] == [f"frame={number}" for number in expected]
    again = dict(extract_frames(video.path, [source.part for source, _ in chosen]))
    for number, (source, data) in zip(expected, chosen, strict=True):
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), all_frames[number])
        assert again[source.part] == data


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("GT-RAIN_train/x.png", "train"),
        ("validation/x.png", "val"),
        ("valid/x.png", "val"),
        ("test_a/data/x.png", "test"),
        ("RainTrainL/x.png", "train"),
        ("real_test_1000.txt/x", "test"),
        ("valley/x.png", None),
        ("constraint/x.png", None),
        ("train.png", None),
    ],
)
def test_folders_speak_of_splits(path, split):
    assert split_of(path) == split


def test_the_same_data_elsewhere_gives_the_same_manifest(tmp_path, monkeypatch):
    for seed in range(10):
        for number, name in enumerate((f"{seed}_1.png", f"sub/{seed}_1.png", f"{seed}_1.jpg")):
            clean = f"{name.split('_')[0]}.png"
            write_pair(tmp_path / "a" / "in" / name, tmp_path / "a" / "gt" / clean, seed + 30 * (number == 1), number)
    shutil.copytree(tmp_path / "a", tmp_path / "moved" / "data")
    monkeypatch.chdir(tmp_path / "moved")
    manifests = []
    for number, source in enumerate((tmp_path / "a", tmp_path / "moved" / "data", "data")):
        output = tmp_path / f"out{number}"
        assert tool().main([str(source), "--layout", "Outdoor-Rain", "--output", str(output)]) == 0
        manifests.append((output / "manifest.jsonl").read_bytes())
    assert manifests[0] == manifests[1] == manifests[2]
    assert str(tmp_path).encode() not in manifests[0]
