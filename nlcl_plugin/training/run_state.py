"""What a run needs beyond networks and optimizers to go on as if nothing had happened.

All of it is tensors, numbers, texts, lists and dicts, as `torch.load(..., weights_only=True)` takes nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

# Of this start of the run, not of what is trained.
_RUN_TIME = {"root_path", "rank", "world_size", "dist", "auto_resume", "is_train"}
_RUN_TIME_PATHS = {
    "experiments_root", "results_root", "models", "training_states", "visualization", "log", "resume_state",
}  # fmt: skip


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


# options --------------------------------------------------------------------------------------------------------------
def plain_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the options that say what is trained, as plain values.

    Call it before anything is built or resumed: BasicSR takes entries out of its options, and puts paths in.

    Args:
        opt: Complete options.

    Returns:
        Nested dicts and lists of texts, numbers, booleans and None, without what belongs to one start of the run.
    """
    options = {key: value for key, value in opt.items() if key not in _RUN_TIME}
    if isinstance(options.get("path"), Mapping):
        options["path"] = {key: value for key, value in options["path"].items() if key not in _RUN_TIME_PATHS}
    return plain(options)


def plain(value: Any) -> Any:
    """Turn a value into plain dicts, lists, texts and numbers; numpy's scalars into Python's, the unknown into text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what changed from one set of options to another.

    Args:
        before: Plain options.
        now: Plain options.

    Returns:
        A line for each change, in the order of the options.

    Example:
        >>> difference({"lr": 2e-4, "val": {"val_freq": 10}}, {"lr": 1e-4, "train": {"amp": "bf16"}})
        ['lr: 0.0002 → 0.0001', 'val: removed', 'train: added']
        >>> difference({"train": {}}, {"train": {"amp": "bf16"}})
        ["train.amp: added, 'bf16'"]
    """
    return _difference(before, now, "")


def _difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str) -> list[str]:
    lines = []
    for key in [*before, *(key for key in now if key not in before)]:
        where = f"{prefix}{key}"
        if key not in now:
            lines.append(f"{where}: removed{_shown(before[key])}")
        elif key not in before:
            lines.append(f"{where}: added{_shown(now[key])}")
        elif isinstance(before[key], Mapping) and isinstance(now[key], Mapping):
            lines += _difference(before[key], now[key], f"{where}.")
        elif before[key] != now[key]:
            lines.append(f"{where}: {before[key]!r} → {now[key]!r}")
    return lines


def _shown(value: Any) -> str:
    return "" if isinstance(value, Mapping) else f", {value!r}"
