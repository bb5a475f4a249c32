"""PatchGAN discriminator (Isola et al., CVPR 2017, arXiv 1611.07004).

With anti-aliased downsampling (Zhang, ICML 2019, arXiv 1904.11486), as in CUT (Park et al., ECCV 2020,
arXiv 2007.15651) and the released NLCL code.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _BlurPool(nn.Module):
    """Halve the size after a [1, 2, 1] binomial filter, so that a shift of the input is no jump of the output."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("kernel", torch.outer(line, line).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), self.kernel, stride=2, groups=x.shape[1])


class PatchDiscriminator(nn.Module):
    """Judge overlapping patches of an image (70×70 pixels at the defaults) as clean or not.

    Args:
        num_in_ch: Channels of the input.
        num_feat: Channels of the first convolution; doubled at each level up to eight times that.
        num_layers: Number of halvings; 3 gives the 70×70 receptive field.
        antialias: Convolve at full resolution and halve with a blur, instead of a strided convolution (which costs a
            quarter of it).

    Raises:
        ValueError: If `num_layers` is below 1.

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
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, but received {num_layers}")
        layers: list[nn.Module] = []
        channels = num_in_ch
        for level in range(num_layers + 1):
            width = num_feat * min(2**level, 8)
            halve = level < num_layers
            layers.append(nn.Conv2d(channels, width, 4, stride=2 if halve and not antialias else 1, padding=1))
            if level > 0:
                layers.append(nn.InstanceNorm2d(width))
            layers.append(nn.LeakyReLU(0.2))
            if halve and antialias:
                layers.append(_BlurPool(width))
            channels = width
        layers.append(nn.Conv2d(channels, 1, 4, padding=1))
        # At the defaults the indices equal those of the released code, so its taps 0, 3, 7, 11 are the convolutions.
        self.layers = nn.ModuleList(layers)
        self._channels = self._count_channels()

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """Channels of the given feature taps.

        Args:
            taps: Indices into `layers`; at the defaults 0, 3, 7, 11 are the convolutions.

        Returns:
            One channel count per tap.

        Raises:
            ValueError: If a tap does not exist.
        """
        self._check_taps(taps)
        return [self._channels[tap] for tap in taps]

    def forward(
        self, x: Tensor, taps: Sequence[int] | None = None, features_only: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Judge patches.

        Args:
            x: Image (B, num_in_ch, H, W), RGB in [0, 1].
            taps: Also return the features at these taps (see `tap_channels`), in the given order.
            features_only: Return only the features and stop at the deepest tap.

        Returns:
            Logits (B, 1, h, w); with `taps` a pair (logits, features); with `features_only` the features.

        Raises:
            ValueError: If a tap does not exist, or the image is too small for the network.
        """
        wanted = tuple(taps or ())
        self._check_taps(wanted)
        deepest = max(wanted, default=-1) if features_only else len(self.layers) - 1
        found: dict[int, Tensor] = {}
        out = 2 * x - 1
        for index, layer in enumerate(self.layers[: deepest + 1]):
            if min(out.shape[-2:]) < 3:
                raise ValueError(
                    f"the discriminator cannot judge {x.shape[-2]}×{x.shape[-1]} pixels: use a larger crop "
                    "(gt_size) or fewer num_layers"
                )
            out = layer(out)
            if index in wanted:
                found[index] = out
        features = [found[tap] for tap in wanted]
        if features_only:
            return features
        return out if taps is None else (out, features)

    def _count_channels(self) -> list[int]:
        counts: list[int] = []
        for layer in self.layers:
            counts.append(layer.out_channels if isinstance(layer, nn.Conv2d) else counts[-1])
        return counts

    def _check_taps(self, taps: Sequence[int]) -> None:
        wrong = [tap for tap in taps if not 0 <= tap < len(self.layers)]
        if wrong:
            raise ValueError(f"discriminator taps must be in [0, {len(self.layers) - 1}], but received {wrong}")
