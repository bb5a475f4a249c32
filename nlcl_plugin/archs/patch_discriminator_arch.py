"""PatchGAN discriminator (Isola et al., CVPR 2017, arXiv 1611.07004).

With anti-aliased downsampling (Zhang, ICML 2019, arXiv 1904.11486), as in CUT (Park et al., ECCV 2020,
arXiv 2007.15651) and the released NLCL code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlcl_plugin.archs.feature_taps import FeatureTaps
from nlcl_plugin.archs.memory_layout import in_layout_of


class _BlurPool(nn.Module):
    """Halve the size after a [1, 2, 1] binomial filter, so that a shift of the input is no jump of the output."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(line, line).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        mirrored = _mirror_border(x) if torch.are_deterministic_algorithms_enabled() else F.pad(x, (1,) * 4, "reflect")
        return F.conv2d(mirrored, self.kernel, stride=2, groups=x.shape[1])


def _mirror_border(x: Tensor) -> Tensor:
    """Reflection padding by one pixel; that of torch has no deterministic gradient on CUDA and refuses to run there."""
    x = torch.cat([x[:, :, 1:2], x, x[:, :, -2:-1]], dim=2)
    return torch.cat([x[..., 1:2], x, x[..., -2:-1]], dim=3)


class _InstanceNorm(nn.InstanceNorm2d):
    """Instance norm that keeps the memory layout."""

    def forward(self, x: Tensor) -> Tensor:
        return in_layout_of(super().forward(x), x)


class PatchDiscriminator(FeatureTaps):
    """Judge overlapping patches of an image (70×70 pixels at the defaults) as clean or not.

    Args:
        num_in_ch: Channels of the input.
        num_feat: Channels of the first convolution; doubled at each level up to eight times that.
        num_layers: Number of halvings; 3 gives the 70×70 receptive field.
        antialias: Convolve at full resolution and halve with a blur, instead of a strided convolution (which costs a
            quarter of it).

    Shape:
        Input (B, num_in_ch, H, W), RGB in [0, 1]; output logits (B, 1, h, w).

    Example:
        >>> net = PatchDiscriminator()
        >>> logits, features = net(torch.rand(2, 3, 64, 64), taps=(0, 3, 7, 11))
        >>> tuple(logits.shape), [f.shape[1] for f in features]
        ((2, 1, 6, 6), [64, 128, 256, 512])
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 64, num_layers: int = 3, antialias: bool = True) -> None:
        super().__init__()
        self.least_size = 4 * 2**num_layers  # so that each layer has 3 pixels a side
        self.step_channels = []
        layers: list[nn.Module] = []
        channels = num_in_ch
        for level in range(num_layers + 1):
            width = num_feat * min(2**level, 8)
            halve = level < num_layers
            layers.append(nn.Conv2d(channels, width, 4, stride=2 if halve and not antialias else 1, padding=1))
            if level > 0:
                layers.append(_InstanceNorm(width))
            layers.append(nn.LeakyReLU(0.2))
            if halve and antialias:
                layers.append(_BlurPool(width))
            self.step_channels += [width] * (len(layers) - len(self.step_channels))
            channels = width
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        self.step_channels.append(1)
        # At the defaults the indices equal those of the released code, so its taps 0, 3, 7, 11 are the convolutions.
        self.layers = nn.ModuleList(layers)

    def steps(self) -> list[nn.Module]:
        """All layers; at the defaults the feature taps 0, 3, 7, 11 are the convolutions."""
        return list(self.layers)

    def forward(
        self, x: Tensor, taps: Sequence[int] | None = None, features_only: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Judge patches, as `FeatureTaps.forward`; a ValueError if the image is too small for the network."""
        if min(x.shape[-2:]) < self.least_size:
            raise ValueError(
                f"the discriminator cannot judge {x.shape[-2]}×{x.shape[-1]} pixels: use a larger crop "
                "(gt_size) or fewer num_layers"
            )
        return super().forward(x, taps, features_only)
