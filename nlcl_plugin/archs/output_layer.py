"""Layers that make an output: their precision, and how they start."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full_precision(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Run an output convolution in the precision of its weights, also inside autocast.

    An image in bfloat16 has steps of 1/256 near white, as coarse as the 8 bits it came from.
    """
    with torch.autocast(x.device.type, enabled=False):
        return convolution(x.to(convolution.weight.dtype))


@torch.no_grad()
def start_small(layer: nn.Conv2d | nn.Linear, factor: float) -> None:
    """Make the initial output of a layer small: its weights times a factor, its bias zero."""
    layer.weight.mul_(factor)
    layer.bias.zero_()  # type: ignore[union-attr]
