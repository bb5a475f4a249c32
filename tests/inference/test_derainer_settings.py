"""How a network is used to derain: the settings of `PLAIN`, noted by files or given."""

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
from nlcl_plugin.inference.adaptive import factor_of_amount, rain_amount, strengthen
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import PLAIN, load_derainer
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
    export(replace(derainer, longest_side=64), path)  # the graph itself works at any size
    assert load_derainer(path).longest_side == 80
    assert load_derainer(path, longest_side=0).longest_side == 0
    assert load_derainer(networks / "net_s.pth").longest_side == 0
    with pytest.raises(InputError, match="longest_side: expected 0, or at least 64 pixels, but received 5"):
        load_derainer(path, longest_side=5)
    for factor in (0, 10.1, math.nan):
        with pytest.raises(InputError, match="strength: expected a number above 0, up to 10"):
            load_derainer(path, strength=factor)


@pytest.mark.parametrize("label", ["s", "r"])
@pytest.mark.parametrize("longest_side", [0, 64])
@pytest.mark.parametrize("strength", [0.5, 1.7])
def test_the_rain_is_multiplied_and_what_is_left_is_the_image_without_it(networks, label, longest_side, strength):
    image = torch.rand(1, 3, 48, 96)
    file = networks / f"net_{label}.pth"
    plain, other = (load_derainer(file, longest_side=longest_side, strength=factor) for factor in (1.0, strength))
    assert plain.rain(image).abs().max() > 0.01
    radius = 3 if longest_side else 2  # 5 pixels of the copy are 7.5 of the image
    expected = strengthened(image[0], plain.rain(image)[0], strength, radius)[None]
    torch.testing.assert_close(other.rain(image), expected)
    torch.testing.assert_close(other(image), image - expected)


def opened(channel, radius):
    """Opening of (H, W) by a square: the largest minimum of all squares that contain a pixel."""
    height, width = channel.shape

    def within(image, y, x):
        return image[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]

    pixels = [(y, x) for y in range(height) for x in range(width)]
    eroded = torch.stack([within(channel, y, x).min() for y, x in pixels]).view(height, width)
    return torch.stack([within(eroded, y, x).max() for y, x in pixels]).view(height, width)


def strengthened(image, rain, factor, radius=2):
    """What `strengthen` makes of one image (3, H, W) and its R (C, H, W): pixel by pixel."""
    if factor <= 1:
        return factor * rain
    left = image - rain
    detail = torch.stack([channel - opened(channel, radius) for channel in left])
    if len(rain) == 1:
        detail = detail.min(0, keepdim=True).values
    return rain + torch.minimum((factor - 1) * rain.clamp(min=0), detail)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_taken_beyond_r_is_bright_detail_that_is_left(channels):
    torch.manual_seed(channels)
    images, rains, factors = torch.rand(3, 3, 13, 18), 0.2 * torch.randn(3, channels, 13, 18), (0.6, 1.4, 5.0)
    for scale, radius in ((1.0, 2), (1.2, 2), (1.6, 3), (3.0, 6)):
        expected = [strengthened(*one, radius) for one in zip(images, rains, factors, strict=True)]
        result = strengthen(images, rains, torch.tensor(factors), scale)
        torch.testing.assert_close(result, torch.stack(expected))


def test_a_streak_that_is_found_in_part_goes_and_does_not_become_dark():
    image = torch.full((1, 3, 40, 60), 0.4)
    image[..., 5:35, 20:22] = 0.7  # a streak
    image[..., 10:30, 40:56] = 0.7  # a bright wall
    rain = torch.zeros(1, 1, 40, 60)
    rain[..., 5:35, 20:22] = 0.1  # a third of it is found
    rain[..., 20, 40:56] = 0.1
    for factor, left in ((1.0, 0.6), (2.0, 0.5), (3.0, 0.4), (10.0, 0.4)):
        result = image - strengthen(image, rain, torch.tensor([factor]))
        torch.testing.assert_close(result[..., 5:35, 20:22], torch.full((1, 3, 30, 2), left))
        assert result[..., 20, 42:54].min() > 0.55  # of the wall nothing more than was found


def amount_of(rain):
    """The fraction of cells of an image's R (C, H, W) with rain: cell by cell."""
    height, width = rain.shape[-2:]
    found = rain.mean(0).numpy() > 0.02
    cells = 0
    for row in range(8):  # cells overlap by a pixel where the size is no multiple of their number
        for column in range(8):
            top, left = row * height // 8, column * width // 8
            cell = found[top : -(-(row + 1) * height // 8), left : -(-(column + 1) * width // 8)]
            cells += cell.mean() > 0.01
    return cells / 64


def random_rain(channels, covered, generator):
    """Rain (1, C, 60, 83) of some density in the covered columns; in six of them there is nothing but rain."""
    places = torch.rand(1, 1, 60, 83, generator=generator) < 0.04
    places[..., covered:] = False
    places[..., 10:16] = True
    return 0.1 + 0.3 * torch.rand(1, channels, 60, 83, generator=generator) * places - 0.1 * ~places


@pytest.mark.parametrize("channels", [1, 3])
def test_the_factor_follows_how_much_of_an_image_has_rain(channels):
    generator = torch.Generator().manual_seed(channels)
    rains = [random_rain(channels, covered, generator) for covered in (5, 40, 60, 66, 83)]
    amounts = [amount_of(rain[0]) for rain in rains]
    assert amounts[1] < 0.7 < amounts[2] < amounts[3] < 0.9 < amounts[4]
    together = torch.cat(rains)
    assert rain_amount(together).tolist() == pytest.approx(amounts)
    expected = [np.interp(amount, [0.7, 0.9], [1.25, 4.0]) for amount in amounts]
    assert factor_of_amount(together).tolist() == pytest.approx(expected)
    assert (expected[0], expected[-1]) == (1.25, 4.0)


def test_a_derainer_adapts_and_files_note_it(networks, tmp_path):
    image = torch.rand(1, 3, 80, 100)
    plain = load_derainer(networks / "net_s.pth")
    rain = plain.rain(image)
    assert amount_of(rain[0]) == 1
    for strength in (1.0, 0.5):
        adaptive = load_derainer(networks / "net_s.pth", adaptive=True, strength=strength)
        expected = strengthen(image, rain, torch.tensor([4 * strength]))
        torch.testing.assert_close(adaptive.rain(image), expected)
        torch.testing.assert_close(adaptive(image), image - expected)
    settings = {"adaptive": True, "strength": 1.25, "longest_side": 64, "keep_colours": True}
    noted = replace(plain, about={**plain.about, **settings})
    export(noted, tmp_path / "noted.safetensors")
    loaded = load_derainer(tmp_path / "noted.safetensors")
    assert {key: getattr(loaded, key) for key in PLAIN} == settings
    own = load_derainer(tmp_path / "noted.safetensors", **PLAIN)
    assert torch.equal(own(image), plain(image))


@pytest.mark.parametrize("label", ["s", "r"])
@pytest.mark.parametrize("longest_side", [0, 128])
def test_colours_and_brightness_of_regions_stay(networks, label, longest_side):
    image = torch.rand(2, 3, 128, 256)
    file = networks / f"net_{label}.pth"
    rain = load_derainer(file, longest_side=longest_side).rain(image)
    kept = load_derainer(file, longest_side=longest_side, keep_colours=True)
    side = 128 if longest_side else 64  # 64 pixels of the copy
    means = rain.unflatten(-1, (-1, side)).unflatten(-3, (-1, side)).mean(dim=(-1, -3))
    expected = rain - F.interpolate(means, image.shape[-2:], mode="bilinear")
    torch.testing.assert_close(kept.rain(image), expected)
    torch.testing.assert_close(kept(image), image - expected)
    assert abs(float((kept(image) - image).mean())) < 0.01 * float(rain.mean())
    assert (kept(image[..., :5, :5]) - image[..., :5, :5]).mean().abs() < 1e-6  # smaller than a cell


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
    assert "1 already there" in capsys.readouterr().out
    assert derain.main(arguments) == 2
    assert "made with other weights or settings" in capsys.readouterr().err
    assert derain.main([*arguments, "--overwrite"]) == 0
    assert not np.array_equal(read_image(tmp_path / "out" / "a.png"), first)
    for other in (["--longest-side", "70"], ["--strength", "2"], ["--adaptive"], ["--keep-colours"]):
        assert derain.main([*arguments, *other]) == 2
