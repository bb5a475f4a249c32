"""Optimizers and schedules by name."""

from __future__ import annotations

import inspect
from typing import Any

import basicsr.models.lr_scheduler
import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nlcl_plugin.config.train_options import Built, OptimizerOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.schedulers import linear_decay

BASICSR_SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")
# A schedule is stepped once an iteration and has no metric to look at.
_UNFIT = ("LRScheduler", "_LRScheduler", "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler")
TORCH_SCHEDULERS = tuple(
    name
    for name, cls in vars(torch.optim.lr_scheduler).items()
    if inspect.isclass(cls) and issubclass(cls, LRScheduler) and name not in (*BASICSR_SCHEDULERS, *_UNFIT)
)
SCHEDULERS = ("LinearDecayLR", *BASICSR_SCHEDULERS, *TORCH_SCHEDULERS)


def build_optimizer(options: OptimizerOptions, parameters: list[Any], where: str) -> Optimizer:
    """Build an optimizer of `torch.optim`.

    Args:
        options: Its name and arguments.
        parameters: Parameters or parameter groups.
        where: The option's name, for messages.

    Returns:
        The optimizer.

    Raises:
        InputError: If there is none of this name, or its arguments are wrong.
    """
    cls = getattr(torch.optim, options.type, None)
    if not inspect.isclass(cls) or not issubclass(cls, Optimizer):
        raise InputError(f"{where}.type: torch.optim has no {options.type!r}; did you mean Adam or AdamW?")
    try:
        return cls(parameters, **options.arguments())
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {options.type} refuses its arguments ({error})") from error


def build_scheduler(options: Built, optimizer: Optimizer, total_iter: int) -> LRScheduler:
    """Build a learning-rate schedule that is stepped once an iteration.

    Args:
        options: Its name and arguments: `LinearDecayLR`, BasicSR's, or one of `torch.optim.lr_scheduler`.
        optimizer: The optimizer.
        total_iter: Iterations of this optimizer.

    Returns:
        The schedule.

    Raises:
        InputError: If there is none of this name, or its arguments are wrong.
    """
    arguments = options.model_extra or {}
    if options.type not in SCHEDULERS:
        raise InputError(f"train.scheduler.type: no schedule is named {options.type!r}; use {', '.join(SCHEDULERS)}")
    try:
        if options.type == "LinearDecayLR":
            return linear_decay(optimizer, total_iter=total_iter, **arguments)
        if options.type in BASICSR_SCHEDULERS:
            # BasicSR calls its restarting class by both names.
            name = "MultiStepRestartLR" if options.type == "MultiStepLR" else options.type
            return getattr(basicsr.models.lr_scheduler, name)(optimizer, **arguments)
        return getattr(torch.optim.lr_scheduler, options.type)(optimizer, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"train.scheduler: {options.type} refuses its arguments ({error})") from error
