"""Optimizers and learning-rate schedules by name, the optimizer step, averages and initial weights of networks."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import Any

import basicsr.models.lr_scheduler
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nlcl_plugin.config.train_options import Built, OptimizerOptions
from nlcl_plugin.errors import InputError

BASICSR_SCHEDULERS = ("MultiStepLR", "MultiStepRestartLR", "CosineAnnealingRestartLR")
# Schedules are stepped once per iteration and get no metric.
_UNFIT = ("LRScheduler", "_LRScheduler", "ReduceLROnPlateau", "SequentialLR", "ChainedScheduler")
TORCH_SCHEDULERS = tuple(
    name
    for name, cls in vars(torch.optim.lr_scheduler).items()
    if inspect.isclass(cls) and issubclass(cls, LRScheduler) and name not in (*BASICSR_SCHEDULERS, *_UNFIT)
)
SCHEDULERS = ("LinearDecayLR", *BASICSR_SCHEDULERS, *TORCH_SCHEDULERS)
AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def build_optimizer(options: OptimizerOptions, parameters: list[Any], where: str) -> Optimizer:
    """Build an optimizer of `torch.optim`; `where` is the option's name, for messages."""
    cls = getattr(torch.optim, options.type, None)
    if not inspect.isclass(cls) or not issubclass(cls, Optimizer):
        raise InputError(f"{where}.type: torch.optim has no {options.type!r}; did you mean Adam or AdamW?")
    try:
        return cls(parameters, **options.arguments())
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {options.type} refuses its arguments ({error})") from error


def build_scheduler(options: Built, optimizer: Optimizer, total_iter: int) -> LRScheduler:
    """Build a schedule of iterations: `LinearDecayLR`, one of BasicSR, or one of `torch.optim.lr_scheduler`."""
    name, arguments = options.type, options.model_extra or {}
    if name not in SCHEDULERS:
        raise InputError(f"train.scheduler.type: no schedule is named {name!r}; use {', '.join(SCHEDULERS)}")
    try:
        if name == "LinearDecayLR":
            return linear_decay(optimizer, total_iter=total_iter, **arguments)
        if name in BASICSR_SCHEDULERS:  # BasicSR calls its restarting class by both names
            cls = getattr(basicsr.models.lr_scheduler, "MultiStepRestartLR" if name == "MultiStepLR" else name)
        else:
            cls = getattr(torch.optim.lr_scheduler, name)
        return cls(optimizer, **arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise InputError(f"train.scheduler: {name} refuses its arguments ({error})") from error


def linear_decay(
    optimizer: Optimizer, *, total_iter: int, decay_from: float = 0.5, min_factor: float = 0.0
) -> LambdaLR:
    """Constant learning rate, then linear decay, as CycleGAN, CUT and NLCL train (100 + 100 epochs there).

    Args:
        optimizer: The optimizer.
        total_iter: Iterations of this optimizer.
        decay_from: Fraction of them after which the rate falls.
        min_factor: Factor on the initial rate at the end.

    Example:
        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        >>> scheduler = linear_decay(optimizer, total_iter=8, decay_from=0.5)
        >>> rates = []
        >>> for _ in range(8):
        ...     rates.append(scheduler.get_last_lr()[0]); optimizer.step(); scheduler.step()
        >>> rates
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    start = decay_from * total_iter
    span = max(total_iter - start, 1)
    return LambdaLR(optimizer, lambda step: 1 - (1 - min_factor) * min(max((step - start) / span, 0.0), 1.0))


def set_rates(scheduler: LRScheduler, *, advance: bool, factor: float) -> None:
    """Set an optimizer's learning rates to those of its schedule, stepped first if asked for, times a factor."""
    groups = scheduler.optimizer.param_groups
    if advance:  # many schedules continue from the rate that they find: it must be their own
        for group, rate in zip(groups, scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        scheduler.step()
    for group, rate in zip(groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate * factor


class Stepper:
    """Backward passes and optimizer steps in a precision, as `UnpairedIteration` takes them.

    Args:
        amp: `bf16`, `fp16` (with loss scaling: a step whose gradients overflow is left out, and that is no fault) or
            None for full precision.
        grad_clip: Largest gradient norm of an optimizer's parameters together, None for no limit.
        device: Where the networks are.
    """

    def __init__(self, amp: str | None, grad_clip: float | None, device: torch.device) -> None:
        self.grad_clip = grad_clip
        self.autocast_options: dict[str, Any] = {"enabled": amp is not None, "dtype": AMP_TYPES[amp] if amp else None}
        self.device = device
        # One scale for all networks: a generator's loss goes through the discriminator.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
        self.scales = self.scaler.is_enabled()
        self.clips = grad_clip is not None

    def autocast(self) -> torch.autocast:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, **self.autocast_options)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self.scaler.scale(loss).backward()

    def clip(self, optimizers: dict[str, Optimizer]) -> dict[str, Tensor]:
        """Clip the gradients of each optimizer; returns their norms before that."""
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

    def leave_out(self) -> None:
        """End an iteration without a step."""
        self.scaler.update()


def frozen_copy(net: nn.Module) -> nn.Module:
    """Copy a network to infer with: in evaluation mode, without gradients."""
    return copy.deepcopy(net).eval().requires_grad_(False)


@torch.no_grad()
def update_average(average: nn.Module, net: nn.Module, *, decay: float, age: int) -> None:
    """Move an average of a network's parameters towards the network after its step, in place; buffers are copied.

    A young average would still contain the random start: after `age` steps its decay is at most (age + 1) / (age + 10).
    """
    decay = min(decay, (age + 1) / (age + 10))
    # All at once: a kernel a tensor takes a GPU longer to launch than to run.
    get_ema_multi_avg_fn(decay)(list(average.parameters()), list(net.parameters()), 0)
    for copied, buffer in zip(average.buffers(), net.buffers(), strict=True):
        copied.copy_(buffer)


@contextlib.contextmanager
def own_random_stream(seed: int, label: str) -> Iterator[None]:
    """Draw the initial weights of one network from (seed, label) alone, and leave the global generator as it was.

    Trainings of one seed that differ in a loss, and so in the networks it needs, then start alike.
    """
    state = np.random.SeedSequence(seed, spawn_key=tuple(label.encode())).generate_state(2, np.uint32)
    with torch.random.fork_rng(devices=[]):  # networks are built on the CPU
        torch.default_generator.manual_seed(int(state[0]) << 31 ^ int(state[1]))
        yield


def load_pretrained(model: Any, net: nn.Module, label: str, param_key: str | None) -> None:
    """Load `path.pretrain_network_{label}` of a BasicSR model into a network, if the option is given."""
    paths = model.opt["path"]
    file, strict = paths.get(f"pretrain_network_{label}"), paths.get(f"strict_load_{label}", True)
    if file is not None:
        model.load_network(net, file, strict, param_key)
