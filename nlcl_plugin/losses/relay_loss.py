"""Composite consistency (ours): extracted rain on an unrelated clean image; the output is compared with that image."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def lay_rain(clean: Tensor, rain: Tensor, *, blend: str = "additive", light: Tensor | float = 1.0) -> Tensor:
    """Lay a rain layer on clean images, without gradient to the rain.

    The rain must not learn from the composite: it would vanish to make the task easy.

    Args:
        clean: Clean images C (B, 3, H, W), RGB in [0, 1].
        rain: Rain layers R of other images (B, 1 or 3, H, W), in [0, 1].
        blend: `additive`: clip(C + R, 0, 1). `screen`: C + R max(A - C, 0), which brightens what is darker than A only.
        light: A of `screen`, in [0, 1], such as (B, 1, 1, 1): the brightness of the light that rain scatters.

    Returns:
        Rainy composites, the shape of `clean`, RGB in [0, 1].

    Raises:
        ValueError: If `blend` is unknown.
    """
    rain = rain.detach()
    if blend == "screen":
        return (clean + rain * (light - clean).clamp_min(0)).clamp(0, 1)
    if blend == "additive":
        return (clean + rain).clamp(0, 1)
    raise ValueError(f"blend must be additive or screen, but received {blend!r}")


class RelayLoss(nn.Module):
    """L1 between the derained composite and the clean image under it: the one place where the target is known.

    Args:
        loss_weight: Weight of the loss.

    Example:
        >>> import torch
        >>> RelayLoss(loss_weight=2.0)(torch.zeros(1, 3, 4, 4), torch.full((1, 3, 4, 4), 0.25)).item()
        0.5
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, derained: Tensor, clean: Tensor) -> Tensor:
        """Compare.

        Args:
            derained: The network's image layer of `lay_rain(clean, rain)` (B, 3, H, W).
            clean: The clean images (B, 3, H, W), RGB in [0, 1].

        Returns:
            A scalar.
        """
        return self.loss_weight * F.l1_loss(derained, clean)
