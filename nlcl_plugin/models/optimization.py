"""Optimizers and schedules by name, and the step that they take: precision, clipping, gradient norms."""

from __future__ import annotations

import inspect
from typing import Any

import basicsr.models.lr_scheduler
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nlcl_plugin.errors import InputError
from nlcl_plugin.models.nlcl_options import Built, OptimizerOptions
from nlcl_plugin.models.schedulers import linear_decay

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
BASICSR_SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")
# A schedule is stepped once an iteration and has no metric to look at.
TORCH_SCHEDULERS = tuple(
    name
    for name, cls in vars(torch.optim.lr_scheduler).items()
    if inspect.isclass(cls)
    and issubclass(cls, LRScheduler)
    and name not in (*BASICSR_SCHEDULERS, "LRScheduler", "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler")
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


class Stepper:
    """Backward passes and optimizer steps in a precision.

    Args:
        amp: `bf16`, `fp16` (with loss scaling) or None for full precision.
        grad_clip: Largest gradient norm of an optimizer's parameters together, None for no limit.
        device: Where the networks are.
    """

    def __init__(self, amp: str | None, grad_clip: float | None, device: torch.device) -> None:
        self.amp = amp
        self.grad_clip = grad_clip
        self.device = device
        # One scale for all networks: a generator's loss goes through the discriminator.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    @property
    def scales(self) -> bool:
        """Whether losses are scaled; then a step whose gradients overflow is left out, and that is no fault."""
        return self.scaler.is_enabled()

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        dtype = AMP_TYPES[self.amp] if self.amp else None
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.amp is not None)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.scaler.scale(loss).backward()

    def clip(self, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Clip the gradients of each optimizer.

        Returns:
            The norm of each before it was clipped.
        """
        norms: dict[str, Tensor] = {}
        for name, optimizer in optimizers.items():
            self.scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms[name] = torch.nn.utils.clip_grad_norm_(parameters, self.grad_clip or float("inf"))
        return norms

    def step(self, optimizers: dict[str, Optimizer]) -> None:
        """Step each optimizer."""
        for optimizer in optimizers.values():
            self.scaler.step(optimizer)
        self.scaler.update()
