"""The study of intrinsic dimension as a command, on real folders and real networks."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
import yaml
from conftest import photograph
from studies.intrinsic_dimension.report import summary
from studies.intrinsic_dimension.study import Key, LayerResult, Settings, known_alike

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.renderer import render_rain

SMALL = ["--patch-size", "4", "6", "--k", "8", "16"]
SMALL += ["--num-patches", "100", "--num-queries", "4", "--search-size", "16"]


def scene(seed, size=56):
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((9, 9, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(0.6 * coarse + 0.05 * rng.standard_normal((size, size, 3)), 0, 0.7)


@pytest.fixture
def folders(tmp_path):
    """Clean scenes; the same under grey streaks; the streaks; and all of it dry."""
    for name in ("clean", "rainy", "rain", "dry"):
        (tmp_path / name).mkdir()
    for i in range(3):
        clean = (scene(i) * 255).round().astype(np.uint8)
        layer = render_rain((56, 56), np.random.default_rng(i), amplitude=(0.25, 0.28))
        rain = np.repeat((layer * 255).round().astype(np.uint8)[..., None], 3, 2)
        for name, image in (("clean", clean), ("rain", rain), ("rainy", clean + rain), ("dry", 0 * rain)):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), image)
    return tmp_path


@pytest.fixture
def tool(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    import intrinsic_dimension

    return intrinsic_dimension.main


def read(folder):
    return json.loads((folder / "intrinsic_dimension.json").read_text())


def estimates(layer):
    return {(e["choice"], e["method"], e["patch_size"], e["k"]): e for e in layer["estimates"]}


def test_folders_and_differences(tool, folders, capsys):
    layers = ["--image", "clean", folders / "clean", "--rain", "rain", folders / "rain"]
    layers += ["--difference", "difference", folders / "rainy", folders / "clean"]
    assert tool([*map(str, layers), "--out", str(folders / "out"), *SMALL]) == 0
    found = read(folders / "out")
    assert list(found["layers"]) == ["clean", "rain", "difference"]
    assert [layer["kind"] for layer in found["layers"].values()] == ["image", "rain", "rain"]
    clean, rain, difference = (estimates(layer) for layer in found["layers"].values())
    assert len(clean) == 2 * (3 + 4)  # patch sizes × (MLE of two k and TwoNN; both of two k)
    for key in clean:
        # Rainy less clean is the rain, of which equal patches stay equal.
        assert difference[key]["mean"] == pytest.approx(rain[key]["mean"], rel=1e-3)
        assert len(clean[key]["per_image"]) == clean[key]["images"] == 3
    for patch_size in (4, 6):
        assert rain["random", "mle", patch_size, 16]["mean"] < clean["random", "mle", patch_size, 16]["mean"]
    out = capsys.readouterr().out
    table = (folders / "out" / "intrinsic_dimension.md").read_text()
    assert table in out
    row = clean["random", "mle", 4, 8]
    assert f"| clean | 3 | {row['mean']:.1f} ± {row['sd']:.1f} ({row['known_dimension_alike']}) |" in table
    plot = cv2.imread(str(folders / "out" / "intrinsic_dimension.png"))
    assert plot.shape[0] > 300
    assert plot.std() > 5


def test_a_second_run_writes_the_same(tool, folders):
    command = ["--rain", "rain", str(folders / "rain"), *SMALL, "--grey", "--remove-mean", "--limit", "1"]
    for name in ("first", "second"):
        assert tool([*command, "--out", str(folders / name)]) == 0
    assert read(folders / "first") == read(folders / "second")
    assert read(folders / "first")["settings"]["grey"] is True


def test_degenerate_images_are_told_and_left_out(tool, folders, capsys):
    half = cv2.imread(str(folders / "clean" / "0.png"))
    half[:, 28:] = 7
    (folders / "some").mkdir()
    cv2.imwrite(str(folders / "some" / "half.png"), half)
    cv2.imwrite(str(folders / "some" / "dry.png"), 0 * half)
    (folders / "some" / "broken.png").write_bytes(b"no image")
    assert tool(["--rain", "some", str(folders / "some"), "--out", str(folders / "out"), *SMALL]) == 3
    out = capsys.readouterr().out
    assert "3 skipped:\n  " in out
    assert "broken.png: cannot be decoded" in out
    assert "dry.png (some), patch size 4: 0 patches are not flat, 100 are needed" in out
    shares = read(folders / "out")["layers"]["some"]["flat_share"]
    # Patches of 4 in 56 × 56: 53 columns of them, and those from 28 on are flat.
    assert shares["4"] == pytest.approx([1.0, 25 / 53])
    for estimate in read(folders / "out")["layers"]["some"]["estimates"]:
        assert estimate["images"] == 1


def test_layers_of_networks_are_what_the_networks_make(tool, folders):
    torch.manual_seed(0)
    nets = {"g": LayerGenerator(num_feat=8, num_block=1), "r": LayerGenerator(num_feat=8, num_block=1, layer="rain")}
    experiment = folders / "experiment"
    (experiment / "models").mkdir(parents=True)
    options = {"name": "x", "decomposition": "two_branch", "path": {}}
    for label, net in nets.items():
        layer = "rain" if label == "r" else "image"
        options[f"network_{label}"] = {"type": "LayerGenerator", "num_feat": 8, "num_block": 1, "layer": layer}
        torch.save({"params": net.state_dict()}, experiment / "models" / f"net_{label}_5.pth")
    (experiment / "options.yml").write_text(yaml.dump(options))
    command = ["--rainy", str(folders / "rainy"), *SMALL, "--limit", "2", "--flat", "0"]
    assert tool(["--experiment", str(experiment), *command, "--out", str(folders / "out")]) == 0
    models = [f"path:pretrain_network_{label}={experiment / 'models' / f'net_{label}_5.pth'}" for label in nets]
    given = ["-opt", str(experiment / "options.yml"), "--force_yml", *models, *command, "--label", "my"]
    assert tool([*given, "--out", str(folders / "again")]) == 0
    first, second = read(folders / "out")["layers"], read(folders / "again")["layers"]
    assert [*first, *second] == ["B", "R", "my B", "my R"]
    assert first["B"] == second["my B"]
    assert first["R"] == second["my R"]
    assert first["B"]["estimates"] != first["R"]["estimates"]


def test_without_a_rain_network_the_rain_is_the_rest(folders):
    from studies.intrinsic_dimension.sources import LayerNetworks

    options = {"network_s": {"type": "ResidualUNet", "num_feat": 8, "num_block": 1}}
    from basicsr.archs import build_network

    net = build_network(dict(options["network_s"])).eval()
    torch.save({"params": net.state_dict()}, folders / "net_s.pth")
    options["path"] = {"pretrain_network_s": str(folders / "net_s.pth")}
    rainy = torch.rand(1, 3, 20, 24)
    image, rain = LayerNetworks(options)(rainy)
    with torch.no_grad():
        torch.testing.assert_close(image, net(rainy))
    torch.testing.assert_close(image + rain, rainy)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"type": "EDSR", "num_block": 1, "upscale": 2},
            r"EDSR makes \(1, 3, 18, 20\) of .*expected a network that",
        ),
        ({"type": "RRDBNet", "num_block": 1, "scale": 1}, r"net_g\.pth: the network fails on \(1, 3, 9, 10\)"),
    ],
)
def test_networks_that_change_or_refuse_a_size_are_skipped_and_told(folders, block, message):
    from basicsr.archs import build_network
    from studies.intrinsic_dimension.sources import LayerNetworks, network_source

    block = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, **block}
    torch.save({"params": build_network(dict(block)).state_dict()}, folders / "net_g.pth")
    split = LayerNetworks({"network_g": block, "path": {"pretrain_network_g": str(folders / "net_g.pth")}})
    (folders / "tiny").mkdir()
    cv2.imwrite(str(folders / "tiny" / "a.png"), photograph(9, 10))
    (skipped,) = network_source(split, str(folders / "tiny"), label="", limit=None).pictures()
    assert isinstance(skipped, InputError)
    assert re.search(message, str(skipped))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to measure"),
        (["--image", "a", "missing"], "missing: no such folder"),
        (["--image", "a", "clean", "--rain", "a", "rain"], "different names"),
        (["--rainy", "rainy"], "--rainy goes with -opt or --experiment"),
        (["--experiment", "clean", "--rainy", "rainy"], "has no options.yml"),
        (["-opt", "empty.yml", "--rainy", "rainy"], "network_g is missing"),
        (["-opt", "net.yml", "--rainy", "rainy"], "path.pretrain_network_g: received None"),
        (["--image", "a", "clean", "--k", "200", "--num-patches", "150"], "more than the largest k of 200"),
        (["--image", "a", "clean", "--k", "4"], "at least 8"),
        (["--image", "a", "clean", "--limit", "0"], "--limit: received 0"),
        (["--rain", "a", "dry"], "a: no image has enough patches that are not flat"),
        (["--difference", "a", "rainy", "other"], "has no partner"),
        (["--image", "a", "clean", "--patch-size", "100"], "no image has enough patches"),
    ],
)
def test_wrong_usage_is_told_in_one_line(tool, folders, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    (folders / "other").mkdir()
    cv2.imwrite("other/other.png", np.zeros((9, 9, 3), np.uint8))
    (folders / "empty.yml").write_text("name: x\n")
    (folders / "net.yml").write_text("network_g: {type: LayerGenerator}\n")
    assert tool([*arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (folders / "out").exists()


@pytest.mark.slow
def test_as_a_command(repository, folders):
    script = repository / "tools" / "intrinsic_dimension.py"
    command = [sys.executable, script, "--rain", "rain", "rain", "--out", "out", "--limit", "1", *SMALL]
    done = subprocess.run(command, cwd=folders, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "written: out/intrinsic_dimension.json" in done.stdout


# parts ----------------------------------------------------------------------------------------------------------------
def test_known_dimensions_are_read_off_the_curve():
    curve = {1: 1.0, 2: 1.9, 4: 3.4, 8: 6.0}
    assert known_alike(1.9, curve, 48) == "2.0"
    assert known_alike(np.sqrt(3.4 * 6.0), curve, 48) == "5.7"  # half way, on a logarithmic scale
    assert known_alike(0.8, curve, 48) == "<1"
    assert known_alike(9.0, curve, 48) == ">8"
    assert known_alike(5.9, curve, 6) == ">6"  # a patch of 6 values has no more


def test_spread_is_over_images_that_have_an_estimate():
    assert summary([1.0, 3.0, float("nan")]) == {"mean": 2.0, "sd": 2**0.5, "min": 1.0, "max": 3.0, "images": 2}
    assert summary([float("inf")])["mean"] is None
    assert summary([2.0])["sd"] is None


def test_sets_whose_points_are_at_one_distance_are_infinite_and_no_fault():
    from studies.intrinsic_dimension.study import _set_estimates

    found = list(_set_estimates(torch.eye(16).expand(2, 16, 16), 16))
    assert found == [("mle", float("inf"), 0), ("two_nn", float("inf"), 0)]


def test_the_bias_is_that_of_the_estimators():
    from studies.intrinsic_dimension.study import calibrate

    from nlcl_plugin.ops import intrinsic_dimension

    found = calibrate(Settings(ks=(16,), num_patches=200, num_queries=8, search_size=16))
    assert set(found) == {
        Key("random", "mle", 0, 16),
        Key("random", "two_nn", 0, None),
        Key("neighbours", "mle", 0, 16),
        Key("neighbours", "two_nn", 0, 16),
    }
    cube = torch.rand(200, 4, generator=torch.Generator().manual_seed(5))
    assert found[Key("random", "mle", 0, 16)][4] == pytest.approx(intrinsic_dimension(cube, k=16).item(), rel=0.1)
    for estimates_ in found.values():
        assert estimates_[1] < estimates_[4] < estimates_[16]
        assert estimates_[128] < 128


def test_the_plot_shows_what_has_no_estimate_as_a_gap():
    from studies.intrinsic_dimension.report import as_plot

    settings = Settings(patch_sizes=(4,), ks=(16, 64))
    layer = LayerResult(rain=True, values={Key("random", "mle", 4, 16): [float("nan")]})
    assert as_plot({"x": layer}, {}, settings).startswith(b"\x89PNG")
