"""A restorer that judges a streak by the whole image (ours; modulation after FiLM, AAAI 2018, arXiv 1709.07871)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlcl_plugin.archs.output_layer import full_precision, start_small
from nlcl_plugin.archs.residual_unet_arch import ResidualBlock, UNetLayers


class ContextUNet(UNetLayers):
    """`ResidualUNet` whose layers after the lowest encoder are scaled and shifted by statistics of the whole image.

    Whether a bright line is a streak or a cable shows in the rest of the image: how much rain there is, and in which
    direction it falls. Mean and root mean square of features at the lowest level, over all pixels, go through two
    layers, which give a scale and a shift per channel. As every pixel depends on every other, there are no tiles: the
    image is in memory at once. For large photographs use `longest_side`.

    Shapes are those of `ResidualUNet`.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the residual: `num_in_ch`, or 1 for a grey residual that is subtracted from all.
        num_feat: Channels at full size; doubled at each of the two lower levels.
        num_block: Residual blocks at the lowest level before the statistics; the other levels have one each way.
        num_late: Residual blocks at the lowest level after the statistics.
        num_stat: Features whose statistics are taken.

    Example:
        >>> net = ContextUNet()
        >>> tuple(net(torch.rand(1, 3, 37, 50)).shape)
        (1, 3, 37, 50)
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 16,
        num_block: int = 6,
        num_late: int = 3,
        num_stat: int = 96,
    ) -> None:
        super().__init__(num_in_ch, num_out_ch, num_feat, num_block)
        wide, wider = 2 * num_feat, 4 * num_feat
        self.stat = nn.Conv2d(wider, num_stat, 1)
        self.mlp = nn.Sequential(nn.Linear(2 * num_stat, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU())
        late = [ResidualBlock(wider) for _ in range(num_late)]
        self.late = nn.ModuleList(late)
        self.channels = (*[wider] * num_late, wide, num_feat)  # of what is scaled and shifted, in its order
        self.film = nn.Linear(128, 2 * sum(self.channels))
        # Start near a ResidualUNet, so that the weights of one are a start (`strict_load_g: false`).
        start_small(self.film, 0.05)
        for block in late:
            start_small(block.conv2, 0.05)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, num_in_ch, H, W) in [0, 1]; same shape, not clipped."""
        e1, e2, out = self.encode(x)
        *late, second, first = self._modulations(out)
        for block, modulation in zip(self.late, late, strict=True):
            out = _modulate(block(out), modulation)
        out = _modulate(self.dec2(self.ascend(self.up2, out, e2)), second)
        out = _modulate(self.dec1(self.ascend(self.up1, out, e1)), first)
        return x - full_precision(self.last, out)

    def _modulations(self, features: Tensor) -> tuple[Tensor, ...]:
        """Scales and shifts (B, 2 C, 1, 1) for each of `channels`."""
        found = F.relu(full_precision(self.stat, features))
        mean, square = found.mean((-2, -1)), found.square().mean((-2, -1))
        film = self.film(self.mlp(torch.cat((mean, (square + 1e-6).sqrt()), 1)))
        return film[..., None, None].split([2 * count for count in self.channels], 1)


def _modulate(features: Tensor, modulation: Tensor) -> Tensor:
    scale, shift = modulation.chunk(2, 1)
    return features * (1 + scale) + shift
