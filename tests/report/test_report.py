"""The report of a training: everything in one page, its figures those of the files, nothing in it trusted."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from derain_helpers import save_network
from report import main as tool
from report_helpers import Page
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.data import read_image
from nlcl_plugin.report import curves, layers, write_report
from nlcl_plugin.report.experiment import read_experiment
from nlcl_plugin.report.neighbours import find_queries
from nlcl_plugin.training.json_log import read_json_lines
from nlcl_plugin.training.launch import start

NAMES = ["\"><img src=x onerror=hacked()>'.png", "雨 {{ 7 * 7 }} & é\n2.png"]
DATASET = "</script><script>hacked()</script>"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A finished training with contrast, dimensions and validations, on images and a dataset with hostile names."""
    root = tmp_path_factory.mktemp("report")
    make_folders(root)
    for folder in ("val_rainy", "val_clean"):
        for path, name in zip(sorted((root / folder).iterdir()), NAMES, strict=True):
            path.rename(path.with_name(name))
    options = tiny_options(network_p={"type": "ProjectionHeads", "num_feat": 8}, val={"val_freq": 2, "save_img": False})
    options["datasets"]["val"]["name"] = "pairs"
    sampling = {"taps": [0], "num_image_patches": 4, "num_rain_patches": 6, "patch_size": 6, "search_size": 12}
    contrast = {"type": "AsymmetricNLCLLoss", "loss_weight": 0.1, "sampling": sampling}
    options["train"].update(layer_opt=contrast, dimension_freq=1, total_iter=8, restorer_opt={"start_iter": 5})
    options["logger"].update(print_freq=1, save_checkpoint_freq=4)
    options["datasets"] = {
        key: {k: str(root / v) if k.startswith("dataroot") else v for k, v in block.items()}
        for key, block in options["datasets"].items()
    }
    write_options(root, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["basicsr", "train", "-opt", "options.yml"])
        assert cli.main(["train", "-opt", "options.yml"]) == 0
    return root


@pytest.fixture(scope="module")
def experiment(root):
    return root / "experiments/tiny"


@pytest.fixture
def copied(experiment, tmp_path):
    return Path(shutil.copytree(experiment, tmp_path / "tiny"))


@pytest.fixture(scope="module")
def page(experiment, tmp_path_factory):
    output = tmp_path_factory.mktemp("page") / "report.html"
    return Page(write_report(experiment, output, images=5, which="latest").read_text(encoding="utf-8"))


def options_with(folder, change):
    options = load_yaml(str(folder / "options.yml"))
    change(options)
    write_options(folder, options)


def report(folder, **settings):
    return Page(write_report(folder, **settings).read_text(encoding="utf-8"))


# the page -------------------------------------------------------------------------------------------------------------
def test_everything_is_embedded_and_nothing_else_may_be_loaded_or_run(page):
    sources = [(tag, key, value) for tag, a in page.elements for key, value in a.items() if key in ("src", "href")]
    assert len([s for s in sources if s[0] == "img"]) >= 2 * 8
    for tag, key, value in sources:
        assert value.startswith("#" if tag == "a" else "data:image/"), (tag, key, value[:60])
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    assert not [key for _, a in page.elements for key in a if key.startswith("on")]
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    script = page.scripts["text/javascript"]
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert f"script-src 'sha256-{allowed}'" in policy
    assert set(re.findall(r"https?://[^\"' ]+", script)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_losses_of_the_page_are_those_of_the_log_with_their_floor(page, experiment):
    losses = read_json_lines(experiment / "losses.jsonl")
    logged = {key for entry in losses for key in entry if key.startswith("l_") and not key.endswith("_above_floor")}
    assert {"l_layer", "l_g_gan", "l_d", "l_restorer"} <= logged <= set(page.charts)
    for key in logged:
        expected = [[entry["iter"], entry[key]] for entry in losses if key in entry]
        assert page.charts[key]["value"] == expected
    floor = [entry["l_layer"] - entry["l_layer_above_floor"] for entry in losses if "l_layer" in entry]
    assert [value for _, value in page.charts["l_layer"]["floor"]] == pytest.approx(floor, rel=1e-5)
    rates = page.charts["learning rate"]
    assert set(rates) == {"optim_g", "optim_d", "optim_p", "optim_s"}
    for name, points in rates.items():
        key = name.replace("optim_", "lr_")
        assert points == [[entry["iter"], entry[key]] for entry in losses if key in entry]
        # Those of stage 1 end where the restorer's begins.
        assert all((key in entry) == (("l_restorer" in entry) == (name == "optim_s")) for entry in losses)
    for key, name in (("dim_image", "image layer B"), ("dim_rain", "rain layer R")):
        points = [[entry["iter"], entry[key]] for entry in losses if key in entry]
        assert len(points) == 5
        assert page.charts["intrinsic dimension"][name] == points


def test_metrics_and_the_summary_of_the_page_are_those_of_the_files(page, experiment):
    metrics = read_json_lines(experiment / "metrics.jsonl")
    assert [entry["iter"] for entry in metrics] == [2, 4, 6, 8]
    for name in ("psnr", "ssim"):
        assert page.charts[name]["pairs"] == [[entry["iter"], entry["metrics"][name]] for entry in metrics]
    summary = json.loads((experiment / "summary.json").read_text(encoding="utf-8"))
    for label, key in (("rainy, not derained", "rainy"), ("derained", "derained")):
        expected = [label, f"{summary['psnr'][key]:.2f}", f"{summary['ssim'][key]:.3f}"]
        assert expected in page.rows
    assert summary["verdict"]
    assert all(line in page.text for line in summary["verdict"])
    # The captions of the sliders were computed anew, with weights from the disk.
    for key in ("rainy", "derained"):
        shown = [float(psnr) for psnr in re.findall(rf"^{key} ([\d.]+) dB$", page.text, re.MULTILINE)]
        assert len(shown) == 2
        assert np.mean(shown) == pytest.approx(summary["psnr"][key], abs=0.006)


def test_names_options_and_commands_are_text_whatever_they_hold(page, copied):
    assert "pairs: \"><img src=x onerror=hacked()>'.png" in page.texts
    assert r"pairs: 雨 {{ 7 * 7 }} & é\n2.png" in page.texts
    options_with(copied, lambda o: (o.update(name=DATASET), o["datasets"]["val"].update(name=DATASET)))
    with open(copied / "losses.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps({"iter": 9, "l_</script>": 1.0, "l_nan": float("nan")}) + "\n")
    found = report(copied, images=0)
    assert DATASET in found.texts  # the heading
    assert found.charts["l_</script>"]["value"] == [[9, 1.0]]
    assert found.charts["l_nan"]["value"] == [[9, None]]
    assert [tag for tag, _ in found.elements].count("script") == 2


def test_the_pictures_are_the_images(page, root):
    (first,) = page.images(f"rainy: {NAMES[0]}")
    expected = read_image(root / "val_rainy" / NAMES[0]) * 255
    assert first.shape == expected.shape
    assert np.abs(first.astype(float) - expected).mean() < 10  # with swapped channels it is 31, the other image 69
    (derained,) = page.images(f"derained: {NAMES[0]}")
    assert derained.shape == first.shape
    assert np.abs(derained.astype(float) - first).mean() > 0.1


def test_the_command_to_do_it_again_imports_what_was_imported(copied):
    record = (copied / "starts.jsonl").read_text().replace("options.yml", "options.yml --import archs.my_arch")
    (copied / "starts.jsonl").write_text(record)
    assert "name=tiny_again --import archs.my_arch" in report(copied, images=0).text


def test_the_page_says_how_to_do_it_again_and_that_works(experiment, tmp_path, monkeypatch):
    monkeypatch.chdir(experiment.parent.parent)
    found = report(experiment, output=tmp_path / "report.html", images=0)
    command = "basicsr train -opt experiments/tiny/options.yml --force_yml name=tiny_again"
    assert command in found.texts
    assert "basicsr train -opt options.yml" in found.texts
    opt = start("experiments/tiny/options.yml", is_train=True, force_yml=["name=tiny_again"])
    assert (opt["name"], opt["train"]["total_iter"]) == ("tiny_again", 8)
    assert torch.__version__ in found.texts


@pytest.mark.slow
def test_a_browser_draws_every_chart_and_complains_of_nothing(page, experiment, tmp_path):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a Chromium")
    path = write_report(experiment, tmp_path / "page.html")
    command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    done = subprocess.run([*command, path.as_uri()], capture_output=True, text=True, check=True, timeout=300)
    assert "CONSOLE" not in done.stderr
    drawn = [a["d"] for tag, a in Page(done.stdout).elements if tag == "path"]
    assert len(drawn) == sum(len(curves) for curves in page.charts.values())
    assert all(re.fullmatch(r"([ML]-?[\d.]+,-?[\d.]+)+", line) for line in drawn)


# what may be missing --------------------------------------------------------------------------------------------------
def test_a_running_training_without_weights_has_its_curves(copied):
    shutil.rmtree(copied / "models")
    for name in ("summary.json", "metrics.jsonl", "starts.jsonl"):
        (copied / name).unlink()
    lines = (copied / "losses.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (copied / "losses.jsonl").write_text("".join(lines[:3]) + lines[3][:20], encoding="utf-8")  # being written
    found = report(copied)
    assert "running or interrupted at iteration 3 of 8" in " ".join(found.text.split())
    assert len(found.charts["l_d"]["value"]) == 3
    assert not {"Metrics", "Non-local neighbours"} & set(found.texts)  # sections without content
    assert "contains no net_g_*.pth or net_s_*.pth yet" in found.text
    with pytest.warns(UserWarning, match=r"pictures are missing: .*contains no net_g_"):
        write_report(copied)


def test_an_interrupted_training_in_stage_1_shows_the_layers_of_stage_1(copied):
    for path in (copied / "models").iterdir():
        if "_4." not in path.name:
            path.unlink()
    found = report(copied)  # its best checkpoint is gone too
    assert "Not finished" in found.texts
    assert "stage 1: B" in found.texts
    assert "restorer: B" not in found.texts


def test_photographs_of_an_unpaired_training_are_shown_beside_its_validation_pairs(page):
    assert "training images: rainy_0.png" in page.texts
    assert any(text.startswith("pairs: ") for text in page.texts)


def test_without_validation_data_training_images_are_shown_with_the_newest_weights(copied):
    best = json.loads((copied / "models/best.json").read_text(encoding="utf-8"))["iter"]
    assert layers.TrainedStages(read_experiment(copied)).which == str(best)
    (copied / "models/best.json").unlink()
    options_with(copied, lambda o: o["datasets"]["val"].update(dataroot_lq="nowhere"))
    assert "No pictures: pairs: cannot be opened" in report(copied, images=1).text
    options_with(copied, lambda o: (o["datasets"].pop("val"), o.pop("val")))
    found = report(copied, images=2)
    assert "training images: rainy_0.png" in found.texts
    assert "with the weights written last" in " ".join(found.text.split())
    assert "restorer: B" in found.texts
    assert "ground truth" not in found.texts


def test_the_command_says_where_the_page_is_and_names_faults_in_one_line(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert tool([str(copied), "--images", "0", "--output", "pages/tiny.html"]) == 0
    assert capsys.readouterr().out.startswith("pages/tiny.html: ")
    found = Page((tmp_path / "pages/tiny.html").read_text(encoding="utf-8"))
    assert not [a for tag, a in found.elements if tag in ("img", "image")]
    (tmp_path / "file").touch()
    (shutil.copytree(copied, tmp_path / "empty") / "losses.jsonl").unlink()
    for arguments, reason in (
        (["nowhere\nat all"], r"nowhere\nat all: has no options.yml"),
        ([copied, "--checkpoint", "3"], "no net_g_3.pth, but of 2, 4, 6, 8, latest; correct --checkpoint"),
        ([copied, "--images", "0", "--output", "file/report.html"], "report.html: cannot be written"),
        (["empty"], "has no losses.jsonl, so no training began here"),
    ):
        assert tool([str(argument) for argument in arguments]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert reason in error


# layers and neighbours ------------------------------------------------------------------------------------------------
def test_the_layers_of_two_networks_need_not_add_up(copied):
    block = {"type": "LayerGenerator", "num_feat": 8, "num_block": 1}
    for label, layer in (("g", "image"), ("r", "rain")):
        net = LayerGenerator(layer=layer, num_feat=8, num_block=1)
        net = save_network(copied / f"models/net_{label}_9.pth", net, label)
    two = {"network_g": {**block, "layer": "image"}, "network_r": {**block, "layer": "rain"}}
    options_with(copied, lambda o: (o.update(two, decomposition="two_branch"), o["train"].pop("restorer_opt")))
    stages = layers.TrainedStages(read_experiment(copied), "9")
    rainy = torch.rand(3, 24, 32)
    (found,) = stages.split(rainy)
    with torch.no_grad():
        torch.testing.assert_close(found.rain, net(rainy[None])[0])
    shown = report(copied, which="9", images=1)
    assert re.search(r"^mean 0\.\d+", shown.text, re.MULTILINE)


@pytest.mark.parametrize("need_whole", [False, True])
def test_of_a_large_image_the_middle_is_shown(need_whole):
    """Of a network that finds rain in smaller copies, the middle of what it makes of the whole image."""
    seen = []

    def split(rainy):
        seen.append(rainy.shape[1:])
        return [layers.StageLayers("", rainy, rainy, own_rain=False)]

    stages = SimpleNamespace(split=split, need_whole=need_whole)
    for shape in ((300, 1501), (1200, 1300), (300, 300)):
        places = torch.arange(shape[0] * shape[1]).reshape(1, *shape).expand(3, -1, -1)
        found = layers.split_example(stages, {"lq": places, "gt": places, "lq_path": "a"}, None)
        expected = tuple(min(side, layers.MAX_SIDE) for side in shape)
        assert found.rainy.shape[1:] == expected
        assert seen.pop() == (shape if need_whole else expected)
        assert torch.equal(found.clean, found.layers[0].image)  # the same place
        assert found.clean[0, 0, 0] == places[0, (shape[0] - expected[0]) // 2, (shape[1] - expected[1]) // 2]
        assert found.cut == (expected != shape)


def test_neighbours_that_are_drawn_are_the_nearest_of_all(experiment):
    found = read_experiment(experiment)
    example = next(layers.split_examples(layers.TrainedStages(found), layers.image_sets(found.options)["pairs"], 1))
    queries = find_queries(example, found.options, None)
    side, search = 6, 12
    for place, pair in zip(queries.places, queries.found, strict=True):
        for near, layer, k in zip(pair, (example.layers[0].image, example.layers[0].rain), (4, 6), strict=True):
            assert len(near.found) == k
            row, column = place.top + side // 2, place.left + side // 2
            patches = layer.unfold(1, side, 1).unfold(2, side, 1)  # all of the image, by their upper left pixels
            every = ((patches - patches[:, place.top, place.left][:, None, None]) ** 2).mean(dim=(0, 3, 4)).sqrt()
            rows, columns = (
                slice(max(0, at - search // 2 - side // 2), at + search // 2 - side // 2) for at in (row, column)
            )
            nearest = every[rows, columns].flatten().sort().values[:k]
            left, top = near.query.left - place.left, near.query.top - place.top  # of the crop's pixels
            for box, distance in zip(near.found, nearest.tolist(), strict=True):
                assert every[box.top - top, box.left - left].item() == pytest.approx(distance, abs=1e-5)
                assert float(re.search(r"differs by ([\d.]+)", box.text)[1]) == pytest.approx(distance, abs=1e-4)


# curves ---------------------------------------------------------------------------------------------------------------
def test_a_moving_mean_is_that_of_the_values_before():
    values = np.random.default_rng(0).normal(size=50).tolist()
    means = curves.moving_mean(values, 7)
    assert means == pytest.approx([np.mean(values[max(0, i - 6) : i + 1]) for i in range(50)])
    assert curves.moving_mean([1.0, float("nan"), 3.0], 3) == [1.0, 1.0, 2.0]
    # A value that is not finite is a gap.
    (chart,) = curves.loss_charts([{"iter": i, "l_x": value} for i, value in enumerate((1.0, None, math.inf, 2.0))])
    assert chart.curves[0].points == [(0, 1.0), (1, None), (2, None), (3, 2.0)]
