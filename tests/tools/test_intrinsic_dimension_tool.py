"""The study of intrinsic dimension as a command, on real folders and real networks."""

import json

import cv2
import numpy as np
import pytest
import torch
from derain_helpers import save_network
from intrinsic_dimension import main as tool
from studies.intrinsic_dimension.sources import network_source
from studies.intrinsic_dimension.study import known_alike

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.data.image_io import read_image, to_tensor
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
        layer = render_rain((56, 56), np.random.default_rng(i))
        layer *= 0.28 / layer.max()
        rain = np.repeat((layer * 255).round().astype(np.uint8)[..., None], 3, 2)
        for name, image in (("clean", clean), ("rain", rain), ("rainy", clean + rain), ("dry", 0 * rain)):
            cv2.imwrite(str(tmp_path / name / f"{i}.png"), image)
    return tmp_path


def read(folder):
    return json.loads((folder / "intrinsic_dimension.json").read_text())


def estimates(layer):
    return {(e["choice"], e["method"], e["patch_size"], e["k"]): e for e in layer["estimates"]}


def test_folders_and_differences(folders, capsys):
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
    assert (folders / "out" / "intrinsic_dimension.md").read_text() in capsys.readouterr().out
    assert cv2.imread(str(folders / "out" / "intrinsic_dimension.png")).std() > 5


def test_degenerate_images_are_named_and_left_out(folders, capsys):
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


def test_layers_of_networks_are_what_the_networks_make(folders):
    (folders / "models").mkdir()
    nets = {
        label: save_network(
            folders / "models" / f"net_{label}_5.pth", LayerGenerator(num_feat=8, num_block=1, layer=layer), label
        )
        for label, layer in (("g", "image"), ("r", "rain"))
    }
    weights = [str(folders / "models" / f"net_{label}_5.pth") for label in nets]
    found = list(network_source(weights, str(folders / "rainy"), label="my"))
    assert [(one.layer, one.rain, one.image) for one in found[:3]] == [
        ("my B", False, "0.png"), ("my R", True, "0.png"), ("my B", False, "1.png")
    ]  # fmt: skip
    rainy = to_tensor(read_image(folders / "rainy" / "0.png"))
    with torch.no_grad():
        for one, net in zip(found, nets.values(), strict=False):
            torch.testing.assert_close(one.values, net(rainy[None])[0])
    image, rain, *_ = network_source(weights[:1], str(folders / "rainy"), label="")
    torch.testing.assert_close(image.values + rain.values, rainy)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to measure"),
        (["--image", "a", "clean", "--k", "200", "--num-patches", "150"], "more than the largest k of 200"),
        (["--rain", "a", "dry"], "a: no image has enough patches that are not flat"),
    ],
)
def test_wrong_usage_is_refused_in_one_line(folders, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(folders)
    assert tool([*arguments, "--out", "out"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (folders / "out").exists()


# parts ----------------------------------------------------------------------------------------------------------------
def test_known_dimensions_are_read_off_the_curve():
    curve = {1: 1.0, 2: 1.9, 4: 3.4, 8: 6.0}
    assert known_alike(1.9, curve, 48) == "2.0"
    assert known_alike(np.sqrt(3.4 * 6.0), curve, 48) == "5.7"  # half way, on a logarithmic scale
    assert known_alike(0.8, curve, 48) == "<1"
    assert known_alike(9.0, curve, 48) == ">8"
    assert known_alike(5.9, curve, 6) == ">6"  # a patch of 6 values has no more
