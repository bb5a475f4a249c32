import json

import numpy as np
import pytest
import real_rain
import torch

from nlcl_plugin import derain
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.data.image_io import read_image, to_uint8, write_image
from nlcl_plugin.metrics.quality import psnr
from nlcl_plugin.metrics.streaks import precision_recall
from nlcl_plugin.networks.about import describe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        clean = rng.integers(0, 120, (40, 56, 3), dtype=np.uint8)
        write_image(root / "clean" / name, clean)
        write_image(root / "rainy" / name, clean + np.uint8(80) * (rng.random((40, 56, 1)) < 0.2).astype(np.uint8))
    return root


def test_figures_are_those_of_the_images_and_a_network_that_does_nothing_keeps_all(folders, tmp_path, capsys):
    net = ResidualUNet(num_feat=4)
    torch.nn.init.zeros_(net.last.weight)
    nothing = tmp_path / "nothing.pth"
    about = describe({"type": "ResidualUNet", "num_feat": 4}, "s")
    torch.save({"params": net.state_dict(), "about": about}, nothing)
    rainy, clean = str(folders / "rainy"), str(folders / "clean")
    options = ["--pairs", rainy, clean, "--clean", clean, "--rainy", rainy, "--side", "24"]
    assert real_rain.main(["--weights", "demo", str(nothing), "--output", str(tmp_path / "out"), *options]) == 0
    found = json.loads((tmp_path / "out" / "real_rain.json").read_text())
    rain, truth = (to_uint8(read_image(folders / kind / "a.png")) for kind in ("rainy", "clean"))
    derained = derain(rain, "demo")
    pair = found["pairs"]["a.png"]
    assert pair["demo"]["psnr"] == pytest.approx(psnr(derained, truth) - psnr(rain, truth), abs=0.01)
    figures = [image / 255 for image in (rain, derained, truth)]
    assert pair["demo"]["streak_recall"] == pytest.approx(precision_recall(*figures)[1], abs=0.01)
    assert (pair["nothing"]["psnr"], pair["nothing"]["streak_recall"]) == (0, 0)
    assert found["clean"]["b.png"]["nothing"] == {"psnr": 100, "structure_psnr": 100}
    assert found["clean"]["b.png"]["demo"]["psnr"] < 60
    assert found["rainy"]["a.png"]["nothing"]["colour"] == 0
    assert read_image(tmp_path / "out" / "sheet.png").shape[1] > 3 * 24
    assert "| mean of 2 | nothing | 0.000 |" in capsys.readouterr().out


def test_nothing_to_measure_and_the_same_network_twice_are_refused(folders, tmp_path, capsys):
    assert real_rain.main(["--weights", "demo", "--output", str(tmp_path), "--import", "absent_module"]) == 2
    assert "there is no module 'absent_module'" in capsys.readouterr().err
    assert real_rain.main(["--weights", "demo", "--output", str(tmp_path)]) == 2
    assert "give at least one" in capsys.readouterr().err
    twice = ["--weights", "demo", "demo", "--output", str(tmp_path), "--clean", str(folders / "clean")]
    assert real_rain.main(twice) == 2
    assert "different networks" in capsys.readouterr().err
