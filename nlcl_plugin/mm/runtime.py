"""What MMEngine 0.10.7 needs to resume on today's torch, and to run several processes without a GPU."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from nlcl_plugin.engine.process_group import check_launcher
from nlcl_plugin.errors import InputError


def allow_history_in_checkpoints() -> None:
    """Let `torch.load` take the log history in checkpoints that MMEngine's own hook saved.

    Resuming fails since torch 2.6, which by default loads tensors and plain values only, as a checkpoint holds
    `HistoryBuffer`s: arrays of numbers, and functions of that class, which their pickle finds by `getattr`. Just these
    are allowed here, and `getattr` for that class alone. Note that MMEngine itself runs the config text of a checkpoint
    when it resumes from it: resume from your own files only.
    """
    torch.serialization.add_safe_globals(
        [
            HistoryBuffer,
            (_statistic, "builtins.getattr"),
            *_array_globals(),
        ]
    )


def _statistic(owner: Any, name: str) -> Any:
    if owner is not HistoryBuffer or name not in ("min", "max", "current", "mean"):
        raise ValueError(f"a checkpoint wants {name!r} of {owner!r}, which a log history does not need: not loaded")
    return getattr(owner, name)


def _array_globals() -> list[Any]:
    core = np._core if hasattr(np, "_core") else np.core
    rebuild, scalar = core.multiarray._reconstruct, core.multiarray.scalar
    named = [(function, f"numpy.{place}.multiarray.{function.__name__}") for function in (rebuild, scalar)
             for place in ("core", "_core")]  # fmt: skip
    return [np.ndarray, np.dtype, *named, *(type(np.dtype(kind)) for kind in ("f8", "f4", "i8", "i4", "?"))]


def prepare_processes(cfg: Config) -> None:
    """Make several processes run: `NLCLDerain` in the wrapper it needs, and without a GPU where there is none.

    There MMEngine's launcher and wrapper ask for one: joins the process group over gloo before the Runner would, and
    gives the wrapper no GPU's number.

    Args:
        cfg: The config, changed in place; `launcher` says who starts the processes.

    Raises:
        InputError: If the launcher is torchrun's and didn't start this process, or there is none and several were
            started.
    """
    check_launcher(cfg.get("launcher", "none"))
    if cfg.get("launcher", "none") != "pytorch":
        return
    if "RANK" not in os.environ:
        raise InputError(
            "--launcher pytorch: RANK is not set; start with `torchrun --nproc_per_node=N tools/mm_train.py`"
        )
    wrapper = dict(cfg.get("model_wrapper_cfg") or {})
    if cfg.get("model", {}).get("type") == "NLCLDerain":
        wrapper.setdefault("type", "MMSeparateDistributedDataParallel")  # no other runs with several optimizers
    if not torch.cuda.is_available():
        wrapper["device_ids"] = None
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
    if wrapper:
        cfg.model_wrapper_cfg = wrapper


def part() -> None:
    """Wait for all processes, then leave the process group, if there is one."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
