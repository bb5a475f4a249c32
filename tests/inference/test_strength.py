"""`strength`: a factor on the rain that is taken out."""

import math

import numpy as np
import pytest
import torch
from derain_helpers import save_network

import nlcl_plugin
from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derainer import load_derainer


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_network(folder / "net_s.pth", ResidualUNet(num_feat=4))
    save_network(folder / "net_r.pth", LayerGenerator(num_feat=4, num_block=1, layer="rain", num_out_ch=1), "r")
    return folder


@pytest.mark.parametrize("label", ["s", "r"])
@pytest.mark.parametrize("longest_side", [0, 64])
def test_the_rain_is_multiplied_and_what_is_left_is_the_image_without_it(networks, label, longest_side):
    image = torch.rand(1, 3, 80, 100)
    file = networks / f"net_{label}.pth"
    plain, stronger = (load_derainer(file, longest_side=longest_side, strength=factor) for factor in (1.0, 1.7))
    assert plain.rain(image).abs().max() > 0.01
    torch.testing.assert_close(stronger.rain(image), 1.7 * plain.rain(image))
    torch.testing.assert_close(stronger(image), image - 1.7 * plain.rain(image))


@pytest.mark.parametrize("factor", [0, -1, 3.1, math.nan])
def test_other_factors_are_refused(networks, factor):
    with pytest.raises(InputError, match="strength: expected a number above 0, up to 3"):
        load_derainer(networks / "net_s.pth", strength=factor)


def test_the_tool_takes_it_and_does_not_take_files_of_another_for_its_own(networks, tmp_path, capsys):
    import derain

    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    write_image(tmp_path / "in" / "a.png", image)
    arguments = [str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--weights", str(networks / "net_s.pth")]
    assert derain.main([*arguments, "--strength", "2"]) == 0
    assert derain.main([*arguments, "--strength", "2"]) == 0
    assert "1 were there already" in capsys.readouterr().out
    assert derain.main(arguments) == 2
    assert "not of these weights and settings" in capsys.readouterr().err
    plain, stronger = (nlcl_plugin.derain(image, networks / "net_s.pth", strength=factor) for factor in (1.0, 2.0))
    assert not np.array_equal(plain, stronger)
    from nlcl_plugin.data.image_io import read_image

    np.testing.assert_allclose(read_image(tmp_path / "out" / "a.png"), stronger / 255, atol=1e-6)
