"""`tools/derain.py` on real files of many kinds."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time

import cv2
import derain as tool
import numpy as np
import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from derain_helpers import save_network
from PIL import Image

import nlcl_plugin
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.networks.about import describe


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net_s.pth"
    save_network(path, ResidualUNet(num_feat=4))
    return path


@pytest.fixture
def other(tmp_path):
    """Other weights."""
    save_network(tmp_path / "other.pth", ResidualUNet(num_feat=4), seed=1)
    return tmp_path / "other.pth"


def scene(height=40, width=56, seed=0, top=256):
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows * 3 + seed, columns * 2, rows + columns + 40], -1) % 256
    return (image * (top // 256)).astype(np.uint8 if top == 256 else np.uint16)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def read(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]


@pytest.fixture
def run(tmp_path, weights, capsys):
    """Derains the folder `in` into `out`; returns the exit code and what was printed."""

    def run(*arguments, inputs=("in",), weights=weights, output="out"):
        sources = [source if source == "-" else tmp_path / source for source in inputs]
        command = [*sources, "--output", tmp_path / output, "--weights", weights, *arguments]
        capsys.readouterr()
        code = tool.main([str(argument) for argument in command])
        out, err = capsys.readouterr()
        assert err.count("\n") == (code in (2, 5))
        return code, out + err

    return run


def figures(folder):
    return json.loads((folder / "out/metrics.json").read_text())["images"]


def test_a_folder_keeps_its_tree_names_formats_and_depths(tmp_path, weights, run):
    source, out = tmp_path / "in", tmp_path / "out"
    write(source / "a.png", scene())
    write(source / "deep/er/b.png", scene(top=65536))
    write(source / "deep/ü 1.jpg", scene(seed=5))
    odd = os.fsdecode(b"two\nlines\xff.png")
    (source / odd).write_bytes((source / "a.png").read_bytes())
    Image.fromarray(np.dstack([scene(), np.full((40, 56), 77, np.uint8)])).save(source / "alpha.png")
    assert run()[0] == 0
    assert np.array_equal(read(out / "a.png"), nlcl_plugin.derain(scene(), weights))
    deep = read(out / "deep/er/b.png")
    assert deep.dtype == np.uint16
    assert np.array_equal(deep, nlcl_plugin.derain(scene(top=65536), weights))
    assert Image.open(out / "deep/ü 1.jpg").format == "JPEG"
    assert (np.asarray(Image.open(out / "alpha.png"))[..., 3] == 77).all()
    made = [json.loads(line) for line in (out / "derain.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["network"]["type"] for entry in made} == {"ResidualUNet"}
    assert sorted({entry["file"] for entry in made}) == ["a.png", "alpha.png", "deep/er/b.png", "deep/ü 1.jpg", odd]


def test_a_broken_file_and_files_of_other_kinds_are_listed_and_stop_no_other(tmp_path, run):
    good, broken = write(tmp_path / "in/good.png", scene()), tmp_path / "in/broken.png"
    broken.write_bytes(good.read_bytes()[:150])
    for name in ("b.gif", "c.avif", "notes.txt", "d"):
        (tmp_path / "in" / name).write_bytes(b"x")
    code, printed = run()
    assert code == 3
    assert "1 failed:" in printed
    assert str(broken) in printed
    assert f"skipped 4 files that are not images or videos: {tmp_path / 'in/b.gif'}, " in printed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["derain.jsonl", "good.png"]


def test_files_already_derained_are_skipped_and_other_weights_are_not_mixed_in(tmp_path, other, run):
    write(tmp_path / "in/a.png", scene())
    write(tmp_path / "in/b.png", scene(seed=9))
    out = tmp_path / "out"
    assert run()[0] == 0
    (out / "b.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    assert "1 derained, 1 already there" in run()[1]
    assert (out / "a.png").stat().st_mtime_ns == before
    write(tmp_path / "in/a.png", scene(seed=7, width=60))  # a changed input is derained again
    assert "1 derained, 1 already there" in run()[1]
    assert read(out / "a.png").shape[1] == 60
    write(tmp_path / "in/a.png", scene())
    assert run()[0] == 0
    code, printed = run(weights=other)
    assert code == 2
    assert "made with other weights or settings" in printed
    # Overwriting that was interrupted after the first image goes on, and leaves no mixture.
    assert run("--overwrite", inputs=["in/a.png"], weights=other)[0] == 0
    assert "b.png: already exists, made with other weights or settings (1 file); give" in run(weights=other)[1]
    assert "1 derained, 1 already there" in run("--overwrite", weights=other)[1]
    for name, seed in (("a.png", 0), ("b.png", 9)):
        assert np.array_equal(read(out / name), nlcl_plugin.derain(scene(seed=seed), other))


def test_figures_and_pictures_that_are_asked_for_later_are_made_and_those_of_earlier_runs_stay(tmp_path, run):
    grey = scene(200, 200)[..., 0]
    cv2.imwrite(str(write(tmp_path / "in/a.png", scene())), grey)
    write(tmp_path / "in/black.png", np.zeros((200, 200, 3), np.uint8))
    run()
    assert run("--metrics", "--save", "rain")[0] == 0
    assert (tmp_path / "out/_rain/a.png.png").is_file()
    write(tmp_path / "in/b.png", scene(64, 64, seed=4))
    run("--metrics")
    found = figures(tmp_path)
    assert list(found) == ["a.png", "b.png", "black.png"]
    assert "niqe" in found["a.png"]
    assert "niqe_rainy" not in found["black.png"]  # it has none


def test_pictures_and_figures_show_what_was_done(tmp_path, run):
    rainy = scene(200, 210)
    truth = np.clip(rainy.astype(int) - 20, 0, 255).astype(np.uint8)
    write(tmp_path / "in/x/a.png", rainy)
    write(tmp_path / "truth/x/a.bmp", truth)
    assert run("--save", "rain,montage,heatmap", "--metrics", "--reference", tmp_path / "truth")[0] == 0
    derained = read(tmp_path / "out/x/a.png").astype(int)
    rain = read(tmp_path / "out/_rain/x/a.png.png").astype(int)
    assert np.abs(rain - np.clip(rainy - derained, 0, 255)).max() <= 1
    montage = read(tmp_path / "out/_montage/x/a.png.png")
    assert montage.shape[1] == 4 * (210 + 6) + 6
    title, picture = montage[:22, 222:432], montage[22:222, 222:432]  # the second of the row
    assert (title < 128).any()
    assert np.array_equal(picture, derained)
    heat = read(tmp_path / "out/_heatmap/x/a.png.png").astype(int)
    hottest = np.clip(rainy - derained, 0, 255).mean(2)
    assert heat.sum(2)[hottest == hottest.max()].min() == heat.sum(2).max()
    found = figures(tmp_path)["x/a.png"]
    for key, image in (("psnr", derained), ("psnr_rainy", rainy.astype(int))):
        assert found[key] == pytest.approx(10 * np.log10(255**2 / np.mean((image - truth) ** 2.0)), abs=1e-3)
    assert {"niqe", "niqe_rainy", "ssim", "ssim_rainy", "mean_rain", "streaks_left", "streak_recall"} <= set(found)
    (row,) = csv.DictReader((tmp_path / "out/metrics.csv").open())
    assert row["file"] == "x/a.png"
    assert float(row["psnr"]) == found["psnr"]


def test_batches_give_what_single_images_give(tmp_path, weights, monkeypatch, run):
    for number in range(5):
        write(tmp_path / f"in/{number}.png", scene(seed=number))
    taken, tensor = [], ImageDerainer.tensor
    monkeypatch.setattr(ImageDerainer, "tensor", lambda self, rainy: taken.append(len(rainy)) or tensor(self, rainy))
    assert run("--batch", 3)[0] == 0
    assert sorted(taken) == [2, 3]
    for number in range(5):
        whole = nlcl_plugin.derain(scene(seed=number), weights)
        assert np.abs(read(tmp_path / f"out/{number}.png").astype(int) - whole).max() <= 1


def test_a_photograph_without_ground_truth_is_derained_and_listed(tmp_path, weights, run):
    write(tmp_path / "in/a.png", scene())
    (tmp_path / "truth").mkdir()
    code, printed = run("--reference", tmp_path / "truth")
    assert code == 0
    assert "1 derained" in printed
    assert f"a.png: derained, but {tmp_path / 'truth'} has no ground truth of its name" in printed
    assert np.array_equal(read(tmp_path / "out/a.png"), nlcl_plugin.derain(scene(), weights))
    assert "0 derained, 1 already there" in run("--reference", tmp_path / "truth")[1]
    write(tmp_path / "truth/a.png", scene())
    assert "1 derained" in run("--reference", tmp_path / "truth")[1]
    assert "psnr" in json.loads((tmp_path / "out/metrics.json").read_text())["images"]["a.png"]


def test_a_video_is_derained_frame_by_frame(tmp_path, weights, run):
    av = pytest.importorskip("av")
    frames = [scene(48, 64, seed=number) for number in range(6)]
    with av.open(str(tmp_path / "rain.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode(None))
    assert run("--batch", "4", inputs=["rain.mkv"])[0] == 0
    with av.open(str(tmp_path / "out/rain.mkv")) as made:
        found = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    assert len(found) == 6
    for frame, result in zip(frames, found, strict=True):
        assert np.abs(nlcl_plugin.derain(frame, weights).astype(int) - result).max() <= 1


# weights --------------------------------------------------------------------------------------------------------------
def test_of_a_folder_the_best_network_is_taken_or_the_newest(tmp_path, run):
    for seed, iteration in enumerate((10, 20)):
        (tmp_path / "x/models").mkdir(parents=True, exist_ok=True)
        save_network(tmp_path / f"x/models/net_g_{iteration}.pth", ResidualUNet(num_feat=4), label="g", seed=seed)
    (tmp_path / "x/models/best.json").write_text('{"metric": "psnr", "value": 30.5, "iter": 10, "better": "higher"}')
    write(tmp_path / "in/a.png", scene())
    assert "net_g_10.pth" in run(weights=tmp_path / "x")[1]
    assert "net_g_20.pth" in run("--newest", weights=tmp_path / "x", output="newest")[1]


# refusals and interruptions -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "rain,snow"], "--save: expected some of rain,montage,heatmap, but received 'snow'"),
        (["--weights", "nowhere.pth"], "nowhere.pth: no such file or folder; give"),
        (["--device", "quantum"], "device 'quantum' cannot be used"),
        (["--reference", "nowhere"], "--reference: there is no folder nowhere"),
        (["--weights", "x2.pth"], "makes (1, 3, 128, 128) of (1, 3, 64, 64); expected a network that keeps the shape"),
        (["--output", __file__], "is a file, not a folder); give another --output"),
        (["--device", "cuda"], "device 'cuda': no GPU is available here; give --device cpu\n"),
    ],
)
def test_bad_arguments_end_in_one_line(tmp_path, run, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    block = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    torch.save(
        {"params": MSRResNet(num_feat=4, num_block=1, upscale=2).state_dict(), "about": describe(block, "g")}, "x2.pth"
    )
    write(tmp_path / "in/a.png", scene())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, printed = run(*arguments)
    assert code == 2
    assert message in printed


def test_a_killed_run_leaves_whole_files_only_and_is_continued(tmp_path, weights, run):
    for number in range(12):
        write(tmp_path / f"in/{number:02}.png", scene(300, 400, seed=number))
    command = [sys.executable, tool.__file__, tmp_path / "in", "--output", tmp_path / "out", "--weights", weights]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob("*.png")) and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    for path in (tmp_path / "out").glob("*.png"):
        assert read(path).shape == (300, 400, 3)
    assert run()[0] == 0
    assert len(list((tmp_path / "out").glob("[0-9][0-9].png"))) == 12


def test_what_was_derained_when_an_interruption_came_is_recorded(tmp_path, monkeypatch, run):
    for number in range(9):
        write(tmp_path / f"in/{number}.png", scene(seed=number))
    array, taken = ImageDerainer.array, []

    def interrupted(self, rgb, **options):
        taken.append(rgb)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return array(self, rgb, **options)

    monkeypatch.setattr(ImageDerainer, "array", interrupted)
    assert run("--jobs", 2)[0] == 5
    made = len(list((tmp_path / "out").glob("*.png")))
    assert 4 <= made < 9
    assert f"{9 - made} derained, {made} already there" in run()[1]


def test_whatever_becomes_of_the_record_no_derained_file_is_lost(tmp_path, weights, run):
    for number in range(3):
        write(tmp_path / f"in/{number}.png", scene(seed=number))
    assert run("--metrics")[0] == 0
    record = tmp_path / "out/derain.jsonl"
    whole = record.read_bytes()
    made = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.png")}

    for seed in range(6):
        draw, lines = random.Random(seed), whole.splitlines(keepends=True)
        if seed % 3 == 0:  # as a kill leaves it
            record.write_bytes(whole[: draw.randrange(len(whole))])
        elif seed % 3 == 1:
            del lines[draw.randrange(len(lines))]
            record.write_bytes(b"".join(lines))
        else:
            record.write_bytes(draw.choice([b"null\n", b"{}\n", b"\xff\n", b'{"file": 3}\n', os.urandom(9)]) + whole)
        assert run("--metrics")[0] in (0, 2)
        assert {path: path.read_bytes() for path in made} == made


def test_weights_that_know_rendered_rain_only_say_so(run, tmp_path):
    write(tmp_path / "in/a.png", scene())
    note = "for photographs of real rain use real"
    assert note in run(weights="demo")[1]
    assert note not in run(weights="real", output="other")[1]
