"""Bands of rows must give what the whole image gives."""

import pytest
import torch
from torch import nn

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.inference.streamed_generator import stream_generator


def trained_like(dtype=torch.float32, **options):
    """A generator whose normalised features and biases are of all sizes, as after a training."""
    torch.manual_seed(0)
    net = LayerGenerator(num_feat=8, num_block=3, **options).to(dtype).eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.bias, std=2.0)
    return net.requires_grad_(False)


def photograph(height, width, dtype=torch.float32):
    """Smooth areas, where the variance of a row is far from that of the image, and noise."""
    rows = torch.linspace(0, 1, height, dtype=dtype)[:, None]
    image = rows.expand(3, height, width).clone()
    image[:, height // 2 :] = torch.rand(3, height - height // 2, width, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )
    return image[None]


@pytest.mark.parametrize("rows", [1, 2, 5, 64, None])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 3), (37, 23), (64, 40), (65, 40)])
def test_bands_give_the_result_of_the_whole_image(size, rows):
    net, image = trained_like(dtype=torch.float64), photograph(*size, dtype=torch.float64)
    torch.testing.assert_close(stream_generator(net, image, rows=rows), net(image), rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"layer": "image"}, {"layer": "rain"}, {"layer": "residual", "num_out_ch": 1}])
def test_all_layers_agree_to_1e_5_in_single_precision(options):
    net, image = trained_like(**options), photograph(61, 83)
    torch.testing.assert_close(stream_generator(net, image, rows=7), net(image), rtol=0, atol=1e-5)


def test_the_image_is_left_as_it_was_and_the_result_carries_no_gradient():
    net, image = trained_like().requires_grad_(True), photograph(20, 20)
    before = image.clone()
    assert not stream_generator(net, image, rows=3).requires_grad
    assert torch.equal(image, before)


def test_only_two_feature_maps_are_asked_for(monkeypatch):
    net, image, asked = trained_like(), photograph(20, 24), []

    def allocate(shape, **how):
        asked.append(tuple(shape))
        return torch.full(shape, torch.nan, **how)  # nothing may be read before it is written

    monkeypatch.setattr(torch, "empty", allocate)
    result = stream_generator(net, image, rows=4)
    assert asked == [(1, 20, 24, 8)] * 2 + [(1, 3, 20, 24)]  # and the result
    assert torch.isfinite(result).all()


def test_under_autocast_the_output_convolution_is_in_full_precision():
    net, image = trained_like(), photograph(40, 40)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        streamed, whole = stream_generator(net, image, rows=8), net(image)
    assert streamed.dtype == whole.dtype == torch.float32
    torch.testing.assert_close(streamed, whole, rtol=0, atol=0.05)  # bfloat16 has 8 bits


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 8, 8), (1, 3, 0, 8)])
def test_anything_but_one_image_is_refused(shape):
    with pytest.raises(ValueError, match=r"expected one image \(1, C, H, W\), but received the shape"):
        stream_generator(trained_like(), torch.rand(shape))
