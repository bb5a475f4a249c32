"""`longest_side`: rain of large images is found in a smaller copy."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from derain_helpers import save_network

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.inference.export import export
from nlcl_plugin.rain.renderer import blend, render_rain


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_network(folder / "net_s.pth", ResidualUNet(num_feat=4))
    save_network(folder / "net_r.pth", LayerGenerator(num_feat=4, num_block=1, layer="rain", num_out_ch=1), "r")
    return folder


@pytest.mark.parametrize("label", ["s", "r"])
@pytest.mark.parametrize("shape", [(150, 100), (80, 160)])
def test_what_is_found_in_the_copy_is_enlarged_and_subtracted(networks, label, shape):
    image = torch.rand(2, 3, *shape)
    file = networks / f"net_{label}.pth"
    whole, limited = (load_derainer(file, longest_side=side) for side in (0, 64))
    small = [round(side * 64 / max(shape)) for side in shape]
    copy = F.interpolate(image, small, mode="bilinear", antialias=True)
    rain = F.interpolate(whole.rain(copy), shape, mode="bicubic")
    torch.testing.assert_close(limited.rain(image), rain)
    torch.testing.assert_close(limited(image), image - rain)


@pytest.mark.parametrize("side", [64, 65, 1000])
def test_images_that_are_no_longer_than_that_are_derained_as_they_are(networks, side):
    image = torch.rand(1, 3, 64, 40)
    whole, limited = (load_derainer(networks / "net_s.pth", longest_side=longest) for longest in (0, side))
    assert torch.equal(whole(image), limited(image))


def test_wide_streaks_are_found_by_a_network_that_knows_thin_ones():
    """The point of it, with the demo weights: the same rain, three times as large."""
    clean = np.full((96, 128, 3), 0.4, np.float32)
    rainy = cv2.resize(blend(clean, render_rain((96, 128), np.random.default_rng(0))), None, fx=3, fy=3)
    left = {side: np.abs(ImageDerainer("demo", longest_side=side).array(rainy) - 0.4).mean() for side in (0, 128)}
    assert left[128] < 0.4 * np.abs(rainy - 0.4).mean()
    assert left[128] < 0.6 * left[0]


@pytest.mark.parametrize("kind", ["safetensors", "onnx"])
def test_an_exported_file_notes_it_and_the_caller_has_the_last_word(networks, tmp_path, kind):
    derainer = load_derainer(networks / "net_s.pth")
    derainer.about["longest_side"] = 80
    path = tmp_path / f"net.{kind}"
    export(replace(derainer, longest_side=1), path, kind)  # the graph itself works at any size
    assert load_derainer(path).longest_side == 80
    assert load_derainer(path, longest_side=0).longest_side == 0
    assert load_derainer(networks / "net_s.pth").longest_side == 0
    for derain in (lambda: load_derainer(path, longest_side=5), lambda: load_derainer(tmp_path / "noted.pth")):
        content = torch.load(networks / "net_s.pth")
        content["about"]["longest_side"] = 5
        torch.save(content, tmp_path / "noted.pth")
        with pytest.raises(InputError, match="longest_side: expected 0, or at least 64 pixels, but received 5"):
            derain()


@pytest.mark.parametrize("value", ["80", -1, 2.0, True])
def test_a_damaged_note_is_refused(networks, tmp_path, value):
    content = torch.load(networks / "net_s.pth")
    content["about"]["longest_side"] = value
    torch.save(content, tmp_path / "net_s.pth")
    with pytest.raises(InputError, match="about` is damaged"):
        load_derainer(tmp_path / "net_s.pth")


def test_the_tool_takes_it_and_does_not_take_files_of_another_for_its_own(networks, tmp_path, capsys):
    import derain

    write_image(tmp_path / "in" / "a.png", np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8))
    arguments = [str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--weights", str(networks / "net_s.pth")]
    assert derain.main([*arguments, "--longest-side", "70"]) == 0
    first = (tmp_path / "out" / "a.png").read_bytes()
    assert derain.main([*arguments, "--longest-side", "70"]) == 0
    assert "1 were there already" in capsys.readouterr().out
    assert derain.main(arguments) == 2
    assert "not of these weights and settings" in capsys.readouterr().err
    assert derain.main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "out" / "a.png").read_bytes() != first
    assert derain.main([*arguments, "--longest-side", "70"]) == 2
    with pytest.raises(SystemExit):
        derain.main([*arguments, "--longest-side", "-3"])
