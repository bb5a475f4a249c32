"""A restorer without activation functions, in the style of NAFNet (Chen et al., ECCV 2022, arXiv 2204.04676)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlcl_plugin.archs.output_layer import full_precision, start_small


class _ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel; without statistics over the image, so that tiles agree."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(num_feat, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _SimpleGate(nn.Module):
    """Product of the two halves of the channels."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1)
        return a * b


class _Block(nn.Module):
    """Spatial mixing, then channel mixing, each gated and added with a weight that starts at zero."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            _ChannelNorm(num_feat),
            nn.Conv2d(num_feat, 2 * num_feat, 1),
            nn.Conv2d(2 * num_feat, 2 * num_feat, 3, padding=1, groups=2 * num_feat),
            _SimpleGate(),
        )
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(num_feat, num_feat, 1))
        self.project = nn.Conv2d(num_feat, num_feat, 1)
        self.channels = nn.Sequential(
            _ChannelNorm(num_feat),
            nn.Conv2d(num_feat, 2 * num_feat, 1),
            _SimpleGate(),
            nn.Conv2d(num_feat, num_feat, 1),
        )
        self.weight_spatial = nn.Parameter(torch.zeros(1, num_feat, 1, 1))
        self.weight_channels = nn.Parameter(torch.zeros(1, num_feat, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.spatial(x)
        x = x + self.weight_spatial * self.project(mixed * self.attention(mixed))
        return x + self.weight_channels * self.channels(x)


class SimpleGateUNet(nn.Module):
    """U-Net of gated blocks whose output is its input minus a residual.

    The channel attention pools over the whole image, so cutting an image into tiles changes the result a little.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the residual: `num_in_ch`, or 1 for a grey residual that is subtracted from all.
        num_feat: Channels at full size; doubled at each lower level.
        enc_blocks: Blocks of each level on the way down; as many levels as there are numbers.
        middle_blocks: Blocks at the lowest level.
        dec_blocks: Blocks of each level on the way up, lowest first.

    Raises:
        ValueError: If `num_out_ch` or the numbers of levels do not fit.

    Shape:
        Input (B, num_in_ch, H, W), RGB in [0, 1], any size; output of the same shape, not clipped.

    Example:
        >>> net = SimpleGateUNet(num_feat=8)
        >>> tuple(net(torch.rand(1, 3, 37, 50)).shape)
        (1, 3, 37, 50)
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 32,
        enc_blocks: Sequence[int] = (1, 1),
        middle_blocks: int = 2,
        dec_blocks: Sequence[int] = (1, 1),
    ) -> None:
        super().__init__()
        if num_out_ch not in (1, num_in_ch):
            raise ValueError(f"num_out_ch must be 1 or {num_in_ch}, but received {num_out_ch}")
        if len(enc_blocks) != len(dec_blocks):
            counts = f"{len(enc_blocks)} and {len(dec_blocks)}"
            raise ValueError(f"enc_blocks and dec_blocks must have as many levels, but received {counts}")
        widths = [num_feat * 2**level for level in range(len(enc_blocks) + 1)]

        def blocks(count: int, width: int) -> nn.Sequential:
            return nn.Sequential(*(_Block(width) for _ in range(count)))

        self.head = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.encoders = nn.ModuleList(map(blocks, enc_blocks, widths))
        self.downs = nn.ModuleList(nn.Conv2d(width, 2 * width, 2, stride=2) for width in widths[:-1])
        self.middle = blocks(middle_blocks, widths[-1])
        self.ups = nn.ModuleList(
            nn.Sequential(nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2)) for width in reversed(widths[:-1])
        )
        self.decoders = nn.ModuleList(map(blocks, dec_blocks, reversed(widths[:-1])))
        self.last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        # Start near the identity, so that the first steps already learn what to subtract.
        start_small(self.last, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, num_in_ch, H, W) in [0, 1]; same shape, not clipped."""
        height, width = x.shape[-2:]
        multiple = 2 ** len(self.downs)
        # Replicated, as a reflection needs an image larger than what is added.
        out = self.head(F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate"))
        skips = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            out = encoder(out)
            skips.append(out)
            out = down(out)
        out = self.middle(out)
        for up, decoder in zip(self.ups, self.decoders, strict=True):
            out = decoder(up(out) + skips.pop())
        return x - full_precision(self.last, out)[..., :height, :width]
