"""What a run needs beyond networks and optimizers to go on as if nothing had happened.

All of it is tensors, numbers, texts, lists and dicts, as `torch.load(..., weights_only=True)` takes nothing else.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


# random states --------------------------------------------------------------------------------------------------------
def capture_random() -> dict[str, Any]:
    """State of every global random generator of this process: Python's, numpy's, torch's on the CPU and on each GPU."""
    version, numbers, gauss = random.getstate()
    # The legacy generator is the one that stock datasets draw from.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(state: dict[str, Any]) -> None:
    """Set every global random generator of this process.

    Args:
        state: Of `capture_random`. GPUs that it doesn't know, or that are no longer there, are passed over.
    """
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
        torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)


def gather_random() -> list[dict[str, Any]] | None:
    """Random states of all processes, in the order of their ranks; all must call this.

    Returns:
        The states on rank 0, None on the others.
    """
    world_size = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world_size == 1:
        return [capture_random()]
    states: list[Any] | None = [None] * world_size if dist.get_rank() == 0 else None
    dist.gather_object(capture_random(), states, dst=0)
    return states


def restore_rank(states: list[dict[str, Any]] | None, rank: int, world_size: int) -> bool:
    """Set the generators of this process to what they were in the process of the same rank.

    Args:
        states: Of `gather_random`; None if the checkpoint has none.
        rank: Rank of this process.
        world_size: Number of processes.

    Returns:
        Whether it was done: not if there were more processes or fewer, as theirs were other draws.
    """
    if states is None or len(states) != world_size:
        return False
    restore_random(states[rank])
    return True
