"""Tiles must give what the whole image gives."""

import pytest
import torch
import torch.nn.functional as F

from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.inference.tiling import run_tiled


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 300), (131, 97), (128, 192), (203, 66)])
def test_a_u_net_in_tiles_gives_the_result_of_the_whole_image(height, width):
    torch.manual_seed(0)
    net = ResidualUNet(num_feat=4).double().requires_grad_(False)
    image = torch.rand(2, 3, height, width, dtype=torch.float64)
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


def test_less_overlap_than_the_reach_is_seen():
    torch.manual_seed(0)
    net = ResidualUNet(num_feat=4).double().requires_grad_(False)
    for parameter in net.parameters():
        parameter.data = parameter.data.abs()
    image = torch.rand(1, 3, 128, 128, dtype=torch.float64)
    tiled = run_tiled(net, image, reach=net.reach - 8, multiple=4, tile=64)
    assert not torch.allclose(tiled, net(image), rtol=0, atol=1e-12)


def test_no_tile_is_larger_than_it_may_be_and_each_is_told():
    sizes, calls = [], []

    def net(x):
        sizes.append(tuple(x.shape[-2:]))
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)

    image = torch.rand(1, 3, 50, 70)
    tiled = run_tiled(net, image, reach=1, tile=16, tell=lambda: calls.append(1))
    torch.testing.assert_close(tiled, F.avg_pool2d(image, 3, 1, 1, count_include_pad=False))
    assert len(calls) == 4 * 5
    assert max(max(size) for size in sizes) == 18


@pytest.mark.parametrize("sizes", [{"reach": -1}, {"reach": 1, "tile": 2, "multiple": 4}, {"reach": 1, "multiple": 0}])
def test_sizes_without_sense_are_refused(sizes):
    with pytest.raises(ValueError, match="expected reach >= 0"):
        run_tiled(lambda x: x, torch.rand(1, 1, 4, 4), **sizes)
