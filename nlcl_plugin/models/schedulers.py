"""Learning-rate schedules: one that BasicSR lacks, and the rates that an iteration takes from any."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler


def linear_decay(
    optimizer: Optimizer, *, total_iter: int, decay_from: float = 0.5, min_factor: float = 0.0
) -> LambdaLR:
    """Constant learning rate, then linear decay, as CycleGAN, CUT and NLCL train (100 + 100 epochs there).

    Args:
        optimizer: The optimizer.
        total_iter: Iterations of this optimizer.
        decay_from: Fraction of them after which the rate falls.
        min_factor: Factor on the initial rate at the end.

    Returns:
        A scheduler to step once an iteration.

    Example:
        >>> import torch
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

    def factor(step: int) -> float:
        return 1 - (1 - min_factor) * min(max((step - start) / span, 0.0), 1.0)

    return LambdaLR(optimizer, factor)


def set_rates(scheduler: LRScheduler, *, advance: bool, factor: float) -> None:
    """Give an optimizer the rates of its schedule times a factor.

    Args:
        scheduler: The schedule. Many go on from the rate that they find: it finds its own, whatever the factor was.
        advance: Whether to step it first.
        factor: That of a warm-up, 1 without.
    """
    _set(scheduler, 1.0)
    if advance:
        scheduler.step()
    _set(scheduler, factor)


def _set(scheduler: LRScheduler, factor: float) -> None:
    for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate * factor
