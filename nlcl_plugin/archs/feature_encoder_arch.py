"""A small encoder whose features the contrastive losses compare where no other network has fitting ones (ours)."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class FeatureEncoder(nn.Module):
    """Strided convolutions without norm: each image's features depend on that image alone.

    Args:
        num_in_ch: Channels of the input.
        num_feat: Channels of the first level; doubled at each further one up to four times that.
        num_level: Levels; each but the first has half the size of the one before.

    Shape:
        Input (B, num_in_ch, H, W), RGB in [0, 1]; output a list of features (B, C, h, w), one entry a level.

    Example:
        >>> import torch
        >>> [tuple(level.shape) for level in FeatureEncoder()(torch.rand(1, 3, 64, 48))]
        [(1, 32, 64, 48), (1, 64, 32, 24), (1, 128, 16, 12)]
    """

    def __init__(self, num_in_ch: int = 3, num_feat: int = 32, num_level: int = 3) -> None:
        super().__init__()
        widths = [num_in_ch, *(num_feat * min(2**level, 4) for level in range(num_level))]
        self.levels = nn.ModuleList(
            nn.Conv2d(before, width, 3, stride=1 if level == 0 else 2, padding=1)
            for level, (before, width) in enumerate(pairwise(widths))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of images, a level each, the finest first."""
        features = []
        out = 2 * x - 1
        for level in self.levels:
            out = F.leaky_relu(level(out), 0.2)
            features.append(out)
        return features
