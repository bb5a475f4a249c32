import pytest
import torch
from torch import nn

from nlcl_plugin.inference.padding import run_padded


class Windows(nn.Module):
    """Refuses sizes that are no multiple of 8, as windowed attention does, and blurs across the image."""

    def forward(self, x):
        assert x.shape[-1] % 8 == x.shape[-2] % 8 == 0
        self.seen = x
        return nn.functional.avg_pool2d(x, 3, 1, 1)


@pytest.mark.parametrize("size", [(16, 24), (17, 20), (3, 9), (1, 1)])
def test_output_has_the_size_of_the_image_and_the_image_stays_in_its_place(size):
    net, x = Windows(), torch.rand(2, 3, *size)
    output = run_padded(net, x, 8)
    assert output.shape == x.shape
    assert torch.equal(net.seen[..., : size[0], : size[1]], x)


def test_a_size_that_fits_is_left_alone():
    net, x = Windows(), torch.rand(1, 3, 8, 16)
    assert torch.equal(run_padded(net, x, 8), net(x))


def test_what_a_network_makes_of_the_padding_is_cut_off_at_its_scale_too():
    net, x = Windows(), torch.rand(1, 3, 17, 20)
    larger = run_padded(lambda images: net(images).repeat_interleave(2, -1).repeat_interleave(2, -2), x, 8, scale=2)
    assert larger.shape == (1, 3, 34, 40)
    assert torch.equal(larger[..., ::2, ::2], run_padded(net, x, 8))
