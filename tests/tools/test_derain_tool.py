"""`tools/derain.py` on real files of many kinds."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from derain_helpers import save_network
from PIL import Image

import nlcl_plugin
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.engine.derain import ImageDerainer
from nlcl_plugin.engine.derainer import load_derainer
from nlcl_plugin.engine.export import export
from nlcl_plugin.engine.network_about import describe

TOOL = Path(__file__).parents[2] / "tools" / "derain.py"
sys.path.insert(0, str(TOOL.parent))
import derain as tool  # noqa: E402


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net_s.pth"
    save_network(path, ResidualUNet(num_feat=4))
    return path


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


def run(*arguments):
    return tool.main([str(argument) for argument in arguments])


def test_a_folder_keeps_its_tree_names_formats_and_depths(tmp_path, weights):
    source = tmp_path / "in"
    write(source / "a.png", scene())
    write(source / "deep/er/b.png", scene(top=65536))
    write(source / "deep/ü 1.jpg", scene(seed=5))
    Image.fromarray(np.dstack([scene(), np.full((40, 56), 77, np.uint8)])).save(source / "alpha.png")
    assert run(source, "--output", tmp_path / "out", "--weights", weights) == 0
    out = tmp_path / "out"
    assert np.array_equal(read(out / "a.png"), nlcl_plugin.derain(scene(), weights))
    deep = read(out / "deep/er/b.png")
    assert deep.dtype == np.uint16
    assert np.array_equal(deep, nlcl_plugin.derain(scene(top=65536), weights))
    assert Image.open(out / "deep/ü 1.jpg").format == "JPEG"
    assert (np.asarray(Image.open(out / "alpha.png"))[..., 3] == 77).all()
    made = [json.loads(line) for line in (out / "derain.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {entry["network"]["type"] for entry in made} == {"ResidualUNet"}
    assert sorted({entry["file"] for entry in made}) == ["a.png", "alpha.png", "deep/er/b.png", "deep/ü 1.jpg"]


def test_a_broken_file_is_reported_and_stops_no_other(tmp_path, weights, capsys):
    good, broken = write(tmp_path / "in/good.png", scene()), tmp_path / "in/broken.png"
    broken.write_bytes(good.read_bytes()[:150])
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights) == 3
    told = capsys.readouterr().out
    assert "1 failed:" in told
    assert str(broken) in told
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["derain.jsonl", "good.png"]


def test_what_is_there_is_kept_and_other_weights_are_not_mixed_in(tmp_path, weights, capsys):
    write(tmp_path / "in/a.png", scene())
    write(tmp_path / "in/b.png", scene(seed=9))
    out, other = tmp_path / "out", tmp_path / "other.pth"
    save_network(other, ResidualUNet(num_feat=4), seed=1)
    assert run(tmp_path / "in", "--output", out, "--weights", weights) == 0
    (out / "b.png").unlink()
    before = (out / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    assert run(tmp_path / "in", "--output", out, "--weights", weights) == 0
    assert "1 derained, 1 were there already" in capsys.readouterr().out
    assert (out / "a.png").stat().st_mtime_ns == before
    assert run(tmp_path / "in", "--output", out, "--weights", other) == 2
    assert "not of these weights and settings" in capsys.readouterr().err
    assert run(tmp_path / "in", "--output", out, "--weights", other, "--overwrite") == 0
    assert np.array_equal(read(out / "a.png"), nlcl_plugin.derain(scene(), other))


def test_overwriting_that_was_interrupted_goes_on_and_leaves_no_mixture(tmp_path, weights, capsys):
    for name in "ab":
        write(tmp_path / f"in/{name}.png", scene(seed=ord(name)))
    out, other = tmp_path / "out", tmp_path / "other.pth"
    save_network(other, ResidualUNet(num_feat=4), seed=1)
    assert run(tmp_path / "in", "--output", out, "--weights", weights) == 0
    assert run(tmp_path / "in/a.png", "--output", out, "--weights", other, "--overwrite") == 0
    assert run(tmp_path / "in", "--output", out, "--weights", other) == 2
    assert "b.png: is there (in all 1 such)" in capsys.readouterr().err
    assert run(tmp_path / "in", "--output", out, "--weights", other, "--overwrite") == 0
    assert "1 derained, 1 were there already" in capsys.readouterr().out
    assert np.array_equal(read(out / "b.png"), nlcl_plugin.derain(scene(seed=ord("b")), other))


def test_a_changed_input_is_derained_again(tmp_path, weights):
    write(tmp_path / "in/a.png", scene())
    arguments = [tmp_path / "in", "--output", tmp_path / "out", "--weights", weights]
    assert run(*arguments) == 0
    write(tmp_path / "in/a.png", scene(seed=7, width=60))
    assert run(*arguments) == 0
    assert read(tmp_path / "out/a.png").shape[1] == 60


def test_figures_and_pictures_that_are_asked_for_later_are_made(tmp_path, weights):
    write(tmp_path / "in/a.png", scene(200, 200))
    arguments = [tmp_path / "in", "--output", tmp_path / "out", "--weights", weights]
    assert run(*arguments) == 0
    assert run(*arguments, "--metrics", "--save", "rain") == 0
    assert "niqe" in json.loads((tmp_path / "out/metrics.json").read_text())["images"]["a.png"]
    assert (tmp_path / "out/_rain/a.png.png").is_file()


def test_a_flat_photograph_has_no_niqe_and_stops_no_other(tmp_path, weights):
    write(tmp_path / "in/black.png", np.zeros((200, 200, 3), np.uint8))
    write(tmp_path / "in/scene.png", scene(200, 200))
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, "--metrics") == 0
    found = json.loads((tmp_path / "out/metrics.json").read_text())["images"]
    assert "niqe_rainy" not in found["black.png"]
    assert "niqe_rainy" in found["scene.png"]


def test_grey_files_are_measured_as_they_are_written(tmp_path, weights):
    grey = scene(64, 64)[..., 0]
    for name in ("in", "truth"):
        (tmp_path / name).mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), grey)
    cv2.imwrite(str(tmp_path / "truth/a.PNG"), grey // 2)
    assert (
        run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, "--reference", tmp_path / "truth") == 0
    )
    written = cv2.imread(str(tmp_path / "out/a.png"), cv2.IMREAD_UNCHANGED)
    psnr = 10 * np.log10(255**2 / np.mean((written.astype(float) - grey // 2) ** 2))
    found = json.loads((tmp_path / "out/metrics.json").read_text())["images"]["a.png"]
    assert found["psnr"] == pytest.approx(psnr, abs=1e-3)


def test_pictures_and_figures_are_as_they_say(tmp_path, weights):
    rainy = scene(200, 210)
    truth = np.clip(rainy.astype(int) - 9, 0, 255).astype(np.uint8)
    write(tmp_path / "in/x/a.png", rainy)
    write(tmp_path / "truth/x/a.bmp", truth)
    arguments = ["--save", "rain,montage,heatmap", "--metrics", "--reference", tmp_path / "truth"]
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, *arguments) == 0
    derained = read(tmp_path / "out/x/a.png").astype(int)
    rain = read(tmp_path / "out/_rain/x/a.png.png").astype(int)
    assert np.abs(rain - np.clip(rainy - derained, 0, 255)).max() <= 1
    assert read(tmp_path / "out/_montage/x/a.png.png").shape == (200, 4 * 210 + 3 * 4, 3)
    heat = read(tmp_path / "out/_heatmap/x/a.png.png").astype(int)
    hottest = np.clip(rainy - derained, 0, 255).mean(2)
    assert heat.sum(2)[hottest == hottest.max()].min() == heat.sum(2).max()
    found = json.loads((tmp_path / "out/metrics.json").read_text())["images"]["x/a.png"]
    psnr = 10 * np.log10(255**2 / np.mean((derained - truth) ** 2.0))
    assert found["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert found["psnr_rainy"] == pytest.approx(
        10 * np.log10(255**2 / np.mean((rainy.astype(int) - truth) ** 2.0)), abs=1e-3
    )
    assert {"niqe", "niqe_rainy", "ssim", "ssim_rainy", "mean_rain"} <= set(found)
    (row,) = csv.DictReader((tmp_path / "out/metrics.csv").open())
    assert row["file"] == "x/a.png"
    assert float(row["psnr"]) == found["psnr"]


def test_figures_of_an_earlier_run_stay(tmp_path, weights):
    write(tmp_path / "in/a.png", scene(200, 200))
    arguments = [tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, "--metrics"]
    assert run(*arguments) == 0
    write(tmp_path / "in/b.png", scene(200, 200, seed=4))
    assert run(*arguments) == 0
    assert list(json.loads((tmp_path / "out/metrics.json").read_text())["images"]) == ["a.png", "b.png"]


def test_a_missing_ground_truth_is_reported(tmp_path, weights, capsys):
    write(tmp_path / "in/a.png", scene())
    (tmp_path / "truth").mkdir()
    out = tmp_path / "out"
    assert run(tmp_path / "in", "--output", out, "--weights", weights, "--reference", tmp_path / "truth") == 3
    assert "no ground truth a in" in capsys.readouterr().out
    assert np.array_equal(read(out / "a.png"), nlcl_plugin.derain(scene(), weights))  # not lost
    write(tmp_path / "truth/a.png", scene())
    assert run(tmp_path / "in", "--output", out, "--weights", weights, "--reference", tmp_path / "truth") == 0


def test_batches_give_what_single_images_give(tmp_path, weights):
    for number in range(5):
        write(tmp_path / f"in/{number}.png", scene(seed=number, width=56 if number != 2 else 48))
    for name, batch in (("one", 1), ("three", 3)):
        assert run(tmp_path / "in", "--output", tmp_path / name, "--weights", weights, "--batch", batch) == 0
    for path in (tmp_path / "one").glob("*.png"):
        assert np.abs(read(path).astype(int) - read(tmp_path / "three" / path.name)).max() <= 1


@pytest.mark.parametrize(("batch", "expected"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2])])
def test_no_more_images_than_asked_for_are_taken_at_once(tmp_path, weights, monkeypatch, batch, expected):
    for number in range(5):
        write(tmp_path / f"in/{number}.png", scene(seed=number))
    taken, tensor = [], ImageDerainer.tensor

    def counted(self, rainy, **how):
        taken.append(len(rainy))
        return tensor(self, rainy, **how)

    monkeypatch.setattr(ImageDerainer, "tensor", counted)
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, "--batch", batch) == 0
    assert taken == expected


def test_names_come_by_standard_input_too(tmp_path, weights):
    write(tmp_path / "in/a b.png", scene())
    command = [sys.executable, TOOL, "-", "--output", tmp_path / "out", "--weights", weights]
    done = subprocess.run(command, input=f"{tmp_path}/in/a b.png\n", text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out/a b.png").is_file()


def test_a_video_is_derained_frame_by_frame(tmp_path, weights):
    av = pytest.importorskip("av")
    frames = [scene(48, 64, seed=number) for number in range(6)]
    with av.open(str(tmp_path / "rain.mkv"), "w") as output:
        stream = output.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        for frame in frames:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        output.mux(stream.encode(None))
    assert run(tmp_path / "rain.mkv", "--output", tmp_path / "out", "--weights", weights, "--batch", "4") == 0
    with av.open(str(tmp_path / "out/rain.mkv")) as made:
        found = [frame.to_ndarray(format="rgb24") for frame in made.decode(video=0)]
    assert len(found) == 6
    for frame, result in zip(frames, found, strict=True):
        assert np.abs(nlcl_plugin.derain(frame, weights).astype(int) - result).max() <= 1


@pytest.mark.parametrize("kind", ["onnx", "safetensors"])
def test_exported_networks_derain_as_their_checkpoint(tmp_path, weights, kind):
    if kind == "onnx":
        pytest.importorskip("onnxscript")
    exported = tmp_path / f"net.{kind}"
    export(load_derainer(weights), exported, kind)
    write(tmp_path / "in/a.png", scene())
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", exported) == 0
    assert np.abs(read(tmp_path / "out/a.png").astype(int) - nlcl_plugin.derain(scene(), weights)).max() <= 1


def test_an_onnx_file_of_others_is_refused(tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    write(tmp_path / "in/a.png", scene())
    (tmp_path / "other.onnx").write_bytes(b"no network")
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path / "other.onnx") == 2
    assert "other.onnx: torn, or no ONNX file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


REASONS = {"graph": "names other files", "branch": "graphs in graphs", "function": "functions"}


@pytest.mark.parametrize("place", REASONS)
def test_an_onnx_file_that_names_other_files_is_refused(tmp_path, weights, capsys, place):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    export(load_derainer(weights), tmp_path / "net.onnx", "onnx")
    model = onnx.load(tmp_path / "net.onnx")
    secret = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "secret")
    onnx.external_data_helper.set_external_data(secret, "elsewhere")
    constant = onnx.helper.make_node("Constant", [], ["value"], value=secret)
    if place == "graph":
        model.graph.initializer.append(secret)
    elif place == "branch":
        branch = onnx.helper.make_graph([constant], "branch", [], [onnx.ValueInfoProto(name="value")])
        node = onnx.helper.make_node("If", ["rainy"], ["unused"], then_branch=branch, else_branch=branch)
        model.graph.node.append(node)
    else:
        model.functions.append(onnx.helper.make_function("own", "f", [], ["value"], [constant], model.opset_import))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    write(tmp_path / "in/a.png", scene())
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path / "net.onnx") == 2
    assert REASONS[place] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save", "rain,snow"], "--save: expected some of rain,montage,heatmap, but received 'snow'"),
        (["--weights", "nowhere.pth"], "nowhere.pth: missing; give the weights"),
        (["--weights", "net.pt"], "net.pt: TorchScript is not read back"),
        (["--device", "quantum"], "device 'quantum' cannot be used"),
        (["--reference", "nowhere"], "--reference: there is no folder nowhere"),
    ],
)
def test_bad_arguments_end_in_one_line(tmp_path, weights, capsys, arguments, message):
    write(tmp_path / "in/a.png", scene())
    given = [] if "--weights" in arguments else ["--weights", weights]
    assert run(tmp_path / "in", "--output", tmp_path / "out", *given, *arguments) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told


def test_weights_that_enlarge_are_refused_before_the_first_image(tmp_path, capsys):
    net = MSRResNet(num_feat=4, num_block=1, upscale=2)
    block = {"type": "MSRResNet", "num_feat": 4, "num_block": 1, "upscale": 2}
    torch.save({"params": net.state_dict(), "about": describe(block, "g")}, tmp_path / "x2.pth")
    for name in ("a", "b"):
        write(tmp_path / f"in/{name}.png", scene())
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", tmp_path / "x2.pth") == 2
    told = capsys.readouterr()
    message = (
        "MSRResNet makes (1, 3, 128, 128) of (1, 3, 64, 64); expected a network that keeps the shape; give another"
    )
    assert message in told.err
    assert (told.err.count("\n"), told.out) == (1, "")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["x", "0", "-1", "1.5"])
def test_counts_are_whole_numbers_from_one(tmp_path, capsys, text):
    with pytest.raises(SystemExit) as ended:
        run(tmp_path, "--output", tmp_path / "out", f"--jobs={text}")
    assert ended.value.code == 2
    assert f"--jobs: expected a whole number from 1, but received {text}" in capsys.readouterr().err


def test_a_killed_run_leaves_whole_files_only_and_goes_on(tmp_path, weights):
    for number in range(12):
        write(tmp_path / f"in/{number:02}.png", scene(300, 400, seed=number))
    command = [sys.executable, TOOL, tmp_path / "in", "--output", tmp_path / "out", "--weights", weights]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "out").glob("*.png")) and job.poll() is None:
        time.sleep(0.01)
    job.send_signal(signal.SIGKILL)
    job.wait()
    for path in (tmp_path / "out").glob("*.png"):
        assert read(path).shape == (300, 400, 3)
    assert run(*map(str, command[2:])) == 0
    assert len(list((tmp_path / "out").glob("[0-9][0-9].png"))) == 12


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told(tmp_path, weights, capsys):
    write(tmp_path / "in/a.png", scene())
    (tmp_path / "out").mkdir(mode=0o500)
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_told(tmp_path, weights, capsys):
    write(tmp_path / "in/a.png", scene())
    shutil.copy(weights, tmp_path / "out")
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights) == 2
    assert "\n" not in capsys.readouterr().err.strip()


def test_what_was_written_when_an_interruption_came_is_not_made_again(tmp_path, weights, monkeypatch, capsys):
    for number in range(6):
        write(tmp_path / f"in/{number}.png", scene(seed=number))
    array, taken = ImageDerainer.array, []

    def interrupted(self, rgb, **how):
        taken.append(rgb)
        if len(taken) == 5:
            raise KeyboardInterrupt
        return array(self, rgb, **how)

    arguments = (tmp_path / "in", "--output", tmp_path / "out", "--weights", weights)
    monkeypatch.setattr(ImageDerainer, "array", interrupted)
    assert run(*arguments) == 5
    assert len(list((tmp_path / "out").glob("*.png"))) == 4
    capsys.readouterr()
    assert run(*arguments) == 0
    assert "2 derained, 4 were there already" in capsys.readouterr().out


def test_files_of_other_kinds_in_a_folder_are_listed(tmp_path, weights, capsys):
    write(tmp_path / "in/a.png", scene())
    for name in ("b.gif", "c.avif", "notes.txt", "d"):
        (tmp_path / "in" / name).write_bytes(b"x")
    assert run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights) == 0
    said = capsys.readouterr().out
    assert f"(4): {tmp_path / 'in/b.gif'}, " in said
    assert "notes.txt" not in said  # three are enough


def test_a_photograph_without_ground_truth_is_derained_and_listed(tmp_path, weights, capsys):
    write(tmp_path / "in/a.png", scene())
    (tmp_path / "truth").mkdir()
    assert (
        run(tmp_path / "in", "--output", tmp_path / "out", "--weights", weights, "--reference", tmp_path / "truth") == 3
    )
    said = capsys.readouterr().out
    assert "1 derained" in said
    assert "no ground truth a in" in said
    assert (tmp_path / "out/a.png").is_file()
