"""Projection heads: feature vectors of a network's taps to embeddings on the unit sphere (CUT, arXiv 2007.15651)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHeads(nn.Module):
    """One two-layer perceptron a feature tap, with L2-normalised output.

    Every parameter exists after construction (in CUT and the released NLCL code the heads are made in the first
    forward, which breaks distributed training and resuming).

    Args:
        in_channels: Channels of each tap.
        num_feat: Size of the embeddings and of the hidden layer.

    Shape:
        Input: a list of (B, N_i, C_i), one entry a tap; output: a list of (B, N_i, num_feat) of unit length.

    Example:
        >>> import torch
        >>> heads = ProjectionHeads([32, 64])
        >>> [tuple(z.shape) for z in heads([torch.rand(2, 5, 32), torch.rand(2, 7, 64)])]
        [(2, 5, 256), (2, 7, 256)]
    """

    def __init__(self, in_channels: Sequence[int], num_feat: int = 256) -> None:
        super().__init__()
        self.in_channels = list(in_channels)
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(channels, num_feat), nn.ReLU(), nn.Linear(num_feat, num_feat))
            for channels in in_channels
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Project and normalise; a ValueError if the number of entries is not that of the heads."""
        projected = [head(x) for head, x in zip(self.heads, features, strict=True)]
        # In half precision unit vectors would be off by what a low temperature makes visible in the logits.
        return [F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=-1) for z in projected]
