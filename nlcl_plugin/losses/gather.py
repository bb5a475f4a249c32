"""Embeddings of all processes, with gradients back to where they came from."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = x.shape[0]
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process has a loss of its own that these rows entered: their gradients add up. DistributedDataParallel
        # then takes the mean over processes, as the loss of the whole batch is the mean of the processes' losses.
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)  # autograd may have given it to others
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def gather_rows(x: Tensor) -> Tensor:
    """Concatenate a tensor of every process along the first dimension, differentiably.

    Args:
        x: A tensor (B, ...), of one shape in all processes.

    Returns:
        (B × processes, ...), in the order of ranks; `x` itself where there is one process.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _GatherRows.apply(x)
