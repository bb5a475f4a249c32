"""A small restorer for pseudo-pairs (ours; a U-Net after Ronneberger et al., MICCAI 2015, arXiv 1505.04597)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nlcl_plugin.archs.output_layer import full_precision, start_small


class ResidualBlock(nn.Module):
    """conv-ReLU-conv with an identity skip, without norm."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (B, num_feat, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


class UNetLayers(nn.Module):
    """The layers of `ResidualUNet`, whose arguments it takes, and its way down."""

    def __init__(self, num_in_ch: int = 3, num_out_ch: int = 3, num_feat: int = 16, num_block: int = 2) -> None:
        super().__init__()
        if num_out_ch not in (1, num_in_ch):
            raise ValueError(f"num_out_ch must be 1 or {num_in_ch}, but received {num_out_ch}")
        wide, wider = 2 * num_feat, 4 * num_feat
        self.head = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.enc1 = ResidualBlock(num_feat)
        self.down1 = nn.Conv2d(num_feat, wide, 3, stride=2, padding=1)
        self.enc2 = ResidualBlock(wide)
        self.down2 = nn.Conv2d(wide, wider, 3, stride=2, padding=1)
        self.middle = nn.Sequential(*(ResidualBlock(wider) for _ in range(num_block)))
        self.up2 = nn.Conv2d(wider, wide, 3, padding=1)
        self.dec2 = ResidualBlock(wide)
        self.up1 = nn.Conv2d(wide, num_feat, 3, padding=1)
        self.dec1 = ResidualBlock(num_feat)
        self.last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        # Start near the identity, so that the first steps already learn what to subtract.
        start_small(self.last, 0.1)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The features of the three levels, from full size down."""
        e1 = self.enc1(F.relu(self.head(x)))
        e2 = self.enc2(F.relu(self.down1(e1)))
        return e1, e2, self.middle(F.relu(self.down2(e2)))

    @staticmethod
    def ascend(up: nn.Module, below: Tensor, skip: Tensor) -> Tensor:
        """The input of the next level up; resizing to the skip makes any image size work."""
        return skip + F.relu(up(F.interpolate(below, size=skip.shape[-2:], mode="nearest")))


class ResidualUNet(UNetLayers):
    """Three-level U-Net without norm whose output is its input minus a residual.

    Without norm, flat or clean inputs are not stretched, and tiles give the same result as the whole image away from
    their borders.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the residual: `num_in_ch`, or 1 for a grey residual that is subtracted from all.
        num_feat: Channels at full size; doubled at each of the two lower levels.
        num_block: Residual blocks at the lowest level; the other levels have one each way.

    Raises:
        ValueError: If `num_out_ch` does not fit.

    Shape:
        Input (B, num_in_ch, H, W), RGB in [0, 1], any size; output of the same shape, not clipped.

    Example:
        >>> import torch
        >>> net = ResidualUNet()
        >>> tuple(net(torch.rand(1, 3, 37, 50)).shape)
        (1, 3, 37, 50)
    """

    tile_multiple = 4  # pixels at the lowest level

    @property
    def reach(self) -> int:
        """How many pixels away an input can change an output: what tiles have to overlap by."""
        # Convolutions by the size of their pixels, and the two pixels that a nearest neighbour can be off.
        full, half, quarter = 1 + 2 + 1 + 1 + 2 + 1, 2 + 1 + 1 + 2, 2 * len(self.middle)
        return full + 2 * half + 4 * quarter + 1 + 2

    def forward(self, x: Tensor) -> Tensor:
        """Restore images (B, num_in_ch, H, W) in [0, 1]; same shape, not clipped."""
        e1, e2, out = self.encode(x)
        out = self.dec2(self.ascend(self.up2, out, e2))
        out = self.dec1(self.ascend(self.up1, out, e1))
        return x - full_precision(self.last, out)
