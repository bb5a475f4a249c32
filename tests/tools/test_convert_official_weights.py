import convert_official_weights as tool
import numpy as np
import pytest
import torch

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.data.image_io import read_image


def convert(source, target):
    return tool.main([str(source), str(target)])


@pytest.mark.parametrize("name", ["Eg1", *(pytest.param(f"Eg{i}", marks=pytest.mark.slow) for i in (2, 3, 4))])
def test_converted_weights_reproduce_the_released_results(shared_data, tmp_path, name):
    assert convert(shared_data / "official_weights" / "latest_net_Back.pth", tmp_path / "net_g.pth") == 0
    net = LayerGenerator(layer="image")
    net.load_state_dict(torch.load(tmp_path / "net_g.pth", weights_only=True)["params"])
    photographs = shared_data / "realrain_eg"
    rainy = torch.from_numpy(read_image(photographs / "rainy" / f"{name}.JPG")).permute(2, 0, 1)[None]
    with torch.no_grad():
        derained = net(rainy)[0].permute(1, 2, 0).numpy()
    expected = np.round(read_image(photographs / "derained_reference" / f"{name}.png") * 255)
    truncated = np.floor(derained.clip(0, 1) * 255)  # the released code truncates to 8 bit
    difference = np.abs(truncated - expected).max(axis=2)
    # Processors sum in other orders, and truncation makes a whole grey level of the least difference.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_other_files_are_refused_in_one_line(tmp_path, capsys):
    torch.save({"params": {}}, tmp_path / "other.pth")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    for name in ("other.pth", "list.pth", "text.pth", "missing.pth"):
        assert convert(tmp_path / name, tmp_path / "out.pth") == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {tmp_path / name}: ")
        assert len(said.splitlines()) == 1
        assert said.count("released NLCL generator") == (name in ("other.pth", "list.pth"))
    assert not list(tmp_path.glob("out.pth*"))
