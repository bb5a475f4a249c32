import subprocess
import sys

import numpy as np
import pytest
import torch

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.data.image_io import read_image


def convert(repository, source, target):
    script = repository / "tools" / "convert_official_weights.py"
    return subprocess.run([sys.executable, script, source, target], capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Eg1", "Eg2", "Eg3", "Eg4"])
def test_converted_weights_reproduce_the_released_results(shared_data, repository, tmp_path, name):
    done = convert(repository, shared_data / "official_weights" / "latest_net_Back.pth", tmp_path / "net_g.pth")
    assert done.returncode == 0, done.stderr
    assert released_psnr(shared_data, tmp_path / "net_g.pth", name) >= 90


def test_converted_weights_reproduce_the_first_released_result(shared_data, repository, tmp_path):
    convert(repository, shared_data / "official_weights" / "latest_net_Back.pth", tmp_path / "net_g.pth")
    assert released_psnr(shared_data, tmp_path / "net_g.pth", "Eg1") >= 90


def released_psnr(shared_data, weights, name):
    net = LayerGenerator(layer="image")
    net.load_state_dict(torch.load(weights, weights_only=True)["params"])
    photographs = shared_data / "realrain_eg"
    rainy = torch.from_numpy(read_image(photographs / "rainy" / f"{name}.JPG")).permute(2, 0, 1)[None]
    with torch.no_grad():
        derained = net(rainy)[0].permute(1, 2, 0).numpy()
    expected = np.round(read_image(photographs / "derained_reference" / f"{name}.png") * 255)
    truncated = np.floor(derained.clip(0, 1) * 255)  # the released code truncates to 8 bit
    return 10 * np.log10(255**2 / ((truncated - expected) ** 2).mean())


def test_rain_weights_convert_too(shared_data, repository, tmp_path):
    done = convert(repository, shared_data / "official_weights" / "latest_net_Rain.pth", tmp_path / "net_r.pth")
    assert "layer: rain" in done.stdout
    LayerGenerator(layer="rain").load_state_dict(torch.load(tmp_path / "net_r.pth", weights_only=True)["params"])


def test_other_files_are_refused_in_one_line(repository, tmp_path):
    torch.save({"params": {}}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for name in ("other.pth", "text.pth", "missing.pth"):
        done = convert(repository, tmp_path / name, tmp_path / "out.pth")
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {tmp_path / name}: ")
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out.pth").exists()
