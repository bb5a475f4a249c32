"""How a network is used to derain: `longest_side`, `strength` and `spare_texture`, noted by files or given."""

import math
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from derain_helpers import save_network

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.data.image_io import read_image, write_image
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.inference.export import export
from nlcl_plugin.inference.texture import DENSEST, SIDE, SUSPECT, spare_texture
from nlcl_plugin.rain.renderer import blend, render_rain


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    save_network(folder / "net_s.pth", ResidualUNet(num_feat=4))
    content = torch.load(folder / "net_s.pth")
    content["params"]["last.bias"].fill_(0.3)  # rain nearly everywhere
    torch.save(content, folder / "net_s.pth")
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


def test_wide_streaks_are_found_by_a_network_that_knows_thin_ones():
    """The point of it, with the demo weights: the same rain, three times as large."""
    clean = np.full((96, 128, 3), 0.4, np.float32)
    rainy = cv2.resize(blend(clean, render_rain((96, 128), np.random.default_rng(0))), None, fx=3, fy=3)
    left = {side: np.abs(ImageDerainer("demo", longest_side=side).array(rainy) - 0.4).mean() for side in (0, 128)}
    assert left[128] < 0.4 * np.abs(rainy - 0.4).mean()
    assert left[128] < 0.6 * left[0]


@pytest.mark.parametrize("kind", ["safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_an_exported_file_notes_it_and_the_caller_has_the_last_word(networks, tmp_path, kind):
    derainer = load_derainer(networks / "net_s.pth")
    derainer.about["longest_side"] = 80
    path = tmp_path / f"net.{kind}"
    export(replace(derainer, longest_side=1), path, kind)  # the graph itself works at any size
    assert load_derainer(path).longest_side == 80
    assert load_derainer(path, longest_side=0).longest_side == 0
    assert load_derainer(networks / "net_s.pth").longest_side == 0
    with pytest.raises(InputError, match="longest_side: expected 0, or at least 64 pixels, but received 5"):
        load_derainer(path, longest_side=5)
    for factor in (0, 3.1, math.nan):
        with pytest.raises(InputError, match="strength: expected a number above 0, up to 3"):
            load_derainer(path, strength=factor)


@pytest.mark.parametrize("label", ["s", "r"])
@pytest.mark.parametrize("longest_side", [0, 64])
def test_the_rain_is_multiplied_and_what_is_left_is_the_image_without_it(networks, label, longest_side):
    image = torch.rand(1, 3, 80, 100)
    file = networks / f"net_{label}.pth"
    plain, stronger = (load_derainer(file, longest_side=longest_side, strength=factor) for factor in (1.0, 1.7))
    assert plain.rain(image).abs().max() > 0.01
    torch.testing.assert_close(stronger.rain(image), 1.7 * plain.rain(image))
    torch.testing.assert_close(stronger(image), image - 1.7 * plain.rain(image))


@pytest.mark.parametrize("channels", [1, 3])
def test_each_pixel_is_judged_by_the_neighbourhood_inside_the_image(channels):
    generator = torch.Generator().manual_seed(channels)
    shape = (1, channels, 40, 53)
    dense = torch.linspace(0, 0.4, 53)  # few pixels at the left, many at the right
    rain = 0.3 * torch.rand(shape, generator=generator) * (torch.rand(1, 1, 40, 53, generator=generator) < dense)
    bright = rain[0].mean(0).numpy() > SUSPECT
    taken = np.zeros_like(bright)
    for y, x in np.argwhere(bright):
        taken[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    expected, half = rain.clone(), SIDE // 2
    for y, x in np.argwhere(taken):
        if taken[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].mean() > DENSEST:
            expected[..., y, x] = 0
    assert 0 < (expected > 0).sum() < (rain > 0).sum()
    assert torch.equal(spare_texture(rain), expected)
    assert torch.equal(spare_texture(torch.cat((rain.flip(-1), rain)))[1:], expected)


def test_streaks_stay_and_texture_beside_them_does_not_count():
    streaks, texture = torch.zeros(1, 1, 80, 80), torch.zeros(1, 1, 80, 80)
    streaks[..., 5:35, 5:80:8] = 0.3
    texture[..., 62:] = 0.3
    kept = spare_texture(streaks + texture)
    assert torch.equal(kept[..., :34, :40], streaks[..., :34, :40])
    assert not kept[..., 70:].any()


def test_a_derainer_spares_texture_and_files_note_it(networks, tmp_path):
    image = torch.rand(1, 3, 80, 100)
    plain, sparing = (load_derainer(networks / "net_s.pth", spare_texture=wanted) for wanted in (None, True))
    assert not torch.equal(spare_texture(plain.rain(image)), plain.rain(image))
    torch.testing.assert_close(sparing.rain(image), spare_texture(plain.rain(image)))
    torch.testing.assert_close(sparing(image), image - spare_texture(plain.rain(image)))
    noted = replace(plain, about={**plain.about, "spare_texture": True, "strength": 1.25, "longest_side": 64})
    export(noted, tmp_path / "noted.safetensors", "safetensors")
    loaded = load_derainer(tmp_path / "noted.safetensors")
    assert (loaded.spare_texture, loaded.strength, loaded.longest_side) == (True, 1.25, 64)
    own = load_derainer(tmp_path / "noted.safetensors", spare_texture=False, strength=1.0, longest_side=0)
    assert torch.equal(own(image), plain(image))


def test_a_damaged_note_is_refused(networks, tmp_path):
    for key, value in (("longest_side", "80"), ("longest_side", -1), ("spare_texture", 1), ("strength", "1")):
        content = torch.load(networks / "net_s.pth")
        content["about"][key] = value
        torch.save(content, tmp_path / "net_s.pth")
        with pytest.raises(InputError, match="about` is damaged"):
            load_derainer(tmp_path / "net_s.pth")


def test_the_tool_takes_them_and_does_not_take_files_of_others_for_its_own(networks, tmp_path, capsys):
    import derain

    options, settings = ["--longest-side", "70", "--strength", "2"], {"longest_side": 70, "strength": 2.0}
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    write_image(tmp_path / "in" / "a.png", image)
    weights = networks / "net_s.pth"
    arguments = [str(tmp_path / "in"), "--output", str(tmp_path / "out"), "--weights", str(weights)]
    assert derain.main([*arguments, *options]) == 0
    first = read_image(tmp_path / "out" / "a.png")
    expected = ImageDerainer(weights, **settings).array(np.float32(image) / 255).clip(0, 1)
    np.testing.assert_allclose(first, expected, atol=0.501 / 255)
    assert derain.main([*arguments, *options]) == 0
    assert "1 were there already" in capsys.readouterr().out
    assert derain.main(arguments) == 2
    assert "not of these weights and settings" in capsys.readouterr().err
    assert derain.main([*arguments, "--overwrite"]) == 0
    assert not np.array_equal(read_image(tmp_path / "out" / "a.png"), first)
    for other in (["--longest-side", "70"], ["--strength", "2"], ["--spare-texture"]):
        assert derain.main([*arguments, *other]) == 2
