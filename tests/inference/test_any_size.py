"""Whatever way an image is taken in parts, the result is that of the whole image."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nlcl_plugin.archs import LayerGenerator, ResidualUNet, SimpleGateUNet
from nlcl_plugin.inference import any_size
from nlcl_plugin.inference.any_size import infer, run_padded, run_tiled


def network(cls, **options):
    torch.manual_seed(0)
    return cls(**options).double().eval().requires_grad_(False)


@pytest.mark.parametrize(
    "net",
    [
        network(LayerGenerator, num_feat=4, num_block=2),
        network(LayerGenerator, num_feat=4, num_block=2, layer="residual", num_out_ch=1),
        network(ResidualUNet, num_feat=4),
        network(SimpleGateUNet, num_feat=4),
    ],
    ids=["image", "residual", "u-net", "whole"],
)
def test_an_image_in_parts_gives_the_result_of_the_whole(net, monkeypatch):
    monkeypatch.setattr(any_size, "TILE", 32)
    image = torch.rand(1, 3, 75, 53, dtype=torch.float64)
    torch.testing.assert_close(infer(net, image), net(image), rtol=0, atol=1e-10)


# padding --------------------------------------------------------------------------------------------------------------
class Windows(nn.Module):
    """Refuses sizes that are no multiple of 8, as windowed attention does, and blurs across the image."""

    def forward(self, x):
        assert x.shape[-1] % 8 == x.shape[-2] % 8 == 0
        self.seen = x
        return F.avg_pool2d(x, 3, 1, 1)


@pytest.mark.parametrize("size", [(16, 24), (17, 20), (3, 9), (1, 1)])
def test_a_padded_image_stays_in_its_place_and_the_padding_is_cut_off(size):
    net, x = Windows(), torch.rand(1, 3, *size)
    output = run_padded(net, x, 8)
    assert output.shape == x.shape
    assert torch.equal(net.seen[..., : size[0], : size[1]], x)
    assert torch.equal(infer(net, x, window=8), output)


# tiles ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (131, 97), (203, 66)])
def test_a_u_net_in_tiles_gives_the_result_of_the_whole_image(height, width):
    net, image = network(ResidualUNet, num_feat=4), torch.rand(2, 3, height, width, dtype=torch.float64)
    tiled = run_tiled(net, image, reach=net.reach, multiple=net.tile_multiple, tile=64)
    torch.testing.assert_close(tiled, net(image), rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_block", [1, 2, 3])
def test_the_reach_of_a_u_net_is_how_far_its_gradient_goes(num_block):
    net = ResidualUNet(num_feat=2, num_block=num_block).double()
    for parameter in net.parameters():
        parameter.data = parameter.data.abs() + 0.01  # no ReLU is off
    side, farthest = 2 * net.reach + 24, 0
    for place in range(net.reach + 8, net.reach + 16):  # all phases of its strides
        image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(net(image)[0, :, place, place].sum(), image)
        farthest = max(farthest, int((gradient.abs().sum((0, 1)).nonzero() - place).abs().max()))
    assert farthest == net.reach
