"""The step that optimizers take: precision, clipping, gradient norms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


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

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped."""
        return self.grad_clip is not None

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

    def leave_out(self) -> None:
        """End an iteration without a step."""
        self.scaler.update()
