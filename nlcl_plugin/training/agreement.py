"""Decisions that all processes of a training must take alike."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


class Agreement:
    """A channel between the processes beside that of the gradients, on the CPU: asking costs no wait for a GPU.

    Args:
        timeout: Seconds that a process waits for the others, 30 minutes by default.
    """

    def __init__(self, timeout: float | None = None) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        limit = None if timeout is None else timedelta(seconds=timeout)
        self._group: Any = dist.new_group(backend="gloo", timeout=limit) if several else None

    def any(self, wanted: bool) -> bool:
        """Whether one process or more wants it; every process must ask."""
        if self._group is None:
            return wanted
        flag = torch.tensor([wanted], dtype=torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())
