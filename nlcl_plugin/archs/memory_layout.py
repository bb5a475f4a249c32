"""The order in which features lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor


def in_layout_of(x: Tensor, reference: Tensor) -> Tensor:
    """Features (B, C, H, W), copied to channels last if the reference is; the values stay.

    Instance norm returns channels first in any case: the next convolution would copy its input, once more in the
    backward pass, and sums and activations in between would mix both layouts.
    """
    if reference.is_contiguous(memory_format=torch.channels_last) and not reference.is_contiguous():
        return x.contiguous(memory_format=torch.channels_last)
    return x
