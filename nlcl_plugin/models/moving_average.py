"""Exponential moving average of a network's parameters."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, *, decay: float, age: int) -> None:
    """Move an average towards a network, in place; buffers are copied.

    Args:
        average: The average, a copy of the network.
        net: The network after its step.
        decay: The average's decay.
        age: Steps that the network has taken. A young average would still hold the random start: its decay is
            (age + 1) / (age + 10) where that is less.
    """
    decay = min(decay, (age + 1) / (age + 10))
    for mean, parameter in zip(average.parameters(), net.parameters(), strict=True):
        mean.lerp_(parameter, 1 - decay)
    for copied, buffer in zip(average.buffers(), net.buffers(), strict=True):
        copied.copy_(buffer)
