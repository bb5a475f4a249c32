"""Decisions that all processes of a training must take alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """A channel between the processes beside that of the gradients, on the CPU: asking costs no wait for a GPU."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group: Any = dist.new_group(backend="gloo") if several else None

    def any(self, wanted: bool) -> bool:
        """Whether one process or more wants it; every process must ask."""
        if self._group is None:
            return wanted
        flag = torch.tensor([wanted], dtype=torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())
