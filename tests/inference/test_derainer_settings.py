"""How a network is used to derain: `longest_side`, `strength` and `adaptive`, noted by files or given."""

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
from nlcl_plugin.inference.adaptive import adapt_to_amount, rain_amount
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.inference.export import export
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


def reference(rain):
    """What `adapt_to_amount` makes of one image (C, H, W): pixel by pixel."""
    height, width = rain.shape[-2:]
    found = rain.mean(0).numpy() > 0.02
    cells = 0
    for row in range(8):  # cells overlap by a pixel where the size is no multiple of their number
        for column in range(8):
            top, left = row * height // 8, column * width // 8
            cell = found[top : -(-(row + 1) * height // 8), left : -(-(column + 1) * width // 8)]
            cells += cell.mean() > 0.01
    amount = cells / 64
    wide = np.zeros_like(found)
    for y, x in np.argwhere(found):
        wide[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    limit = 0.55 + 0.45 * min(max((amount - 0.85) / 0.1, 0), 1)
    adapted = rain * float(np.interp(amount, [0.5, 0.8, 0.95], [0.8, 1.25, 1.75]))
    for y, x in np.argwhere(wide):
        if wide[max(0, y - 12) : y + 13, max(0, x - 12) : x + 13].mean() > limit:
            adapted[:, y, x] = 0
    return adapted, amount


def random_rain(channels, covered, generator):
    """Rain (1, C, 60, 83) of some density in the covered columns; in six of them there is nothing but rain."""
    places = torch.rand(1, 1, 60, 83, generator=generator) < 0.04
    places[..., covered:] = False
    places[..., 10:16] = True
    return 0.1 + 0.3 * torch.rand(1, channels, 60, 83, generator=generator) * places - 0.1 * ~places


@pytest.mark.parametrize("channels", [1, 3])
def test_the_factor_follows_how_much_of_an_image_has_rain(channels):
    generator = torch.Generator().manual_seed(channels)
    rains = [random_rain(channels, covered, generator) for covered in (20, 55, 70, 76, 83)]
    expected, amounts = zip(*(reference(rain[0]) for rain in rains), strict=True)
    assert amounts[0] < 0.5 < amounts[1] < 0.8 < amounts[2] < 0.95 < amounts[4]
    together = torch.cat(rains)
    assert rain_amount(together).tolist() == pytest.approx(amounts)
    torch.testing.assert_close(adapt_to_amount(together), torch.stack(expected))
    factors = np.interp(amounts, [0.5, 0.8, 0.95], [0.8, 1.25, 1.75])
    for strength in (0.5, 1.5, 3.0):  # streaks become dark ones beyond 2, which only a strength asks for
        more = np.minimum(strength * factors, max(2.0, strength)) / factors
        torch.testing.assert_close(
            adapt_to_amount(together, strength), torch.stack(expected) * torch.tensor(more).float().view(-1, 1, 1, 1)
        )


def test_texture_stays_and_streaks_beside_it_go():
    streaks, texture = torch.zeros(1, 1, 160, 160), torch.zeros(1, 1, 160, 160)
    streaks[..., 5:75, 5:80:8] = 0.3
    texture[..., 120:] = 0.3
    adapted = adapt_to_amount(streaks + texture)
    assert torch.equal(adapted[..., :80, :80], 0.8 * streaks[..., :80, :80])
    assert not adapted[..., 133:].any()


def test_a_derainer_adapts_and_files_note_it(networks, tmp_path):
    image = torch.rand(1, 3, 80, 100)
    plain, adaptive = (load_derainer(networks / "net_s.pth", adaptive=wanted) for wanted in (None, True))
    assert not torch.equal(adapt_to_amount(plain.rain(image)), plain.rain(image))
    torch.testing.assert_close(adaptive.rain(image), adapt_to_amount(plain.rain(image)))
    torch.testing.assert_close(adaptive(image), image - adapt_to_amount(plain.rain(image)))
    noted = replace(plain, about={**plain.about, "adaptive": True, "strength": 1.25, "longest_side": 64})
    export(noted, tmp_path / "noted.safetensors", "safetensors")
    loaded = load_derainer(tmp_path / "noted.safetensors")
    assert (loaded.adaptive, loaded.strength, loaded.longest_side) == (True, 1.25, 64)
    own = load_derainer(tmp_path / "noted.safetensors", adaptive=False, strength=1.0, longest_side=0)
    assert torch.equal(own(image), plain(image))


def test_a_damaged_note_is_refused(networks, tmp_path):
    for key, value in (("longest_side", "80"), ("longest_side", -1), ("adaptive", 1), ("strength", "1")):
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
    for other in (["--longest-side", "70"], ["--strength", "2"], ["--adaptive"]):
        assert derain.main([*arguments, *other]) == 2
