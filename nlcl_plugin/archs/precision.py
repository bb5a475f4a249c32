"""What must not run in half precision inside autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def full_precision(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Run an output convolution in the precision of its weights, also inside autocast.

    An image in bfloat16 has steps of 1/256 near white, as coarse as the 8 bits it came from.
    """
    with torch.autocast(x.device.type, enabled=False):
        return convolution(x.to(convolution.weight.dtype))
