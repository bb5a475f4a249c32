"""Losses that BasicSR has and MMEngine lacks, by BasicSR's names, arguments and values."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAN_TYPES = ("vanilla", "lsgan", "hinge")


class GANLoss(nn.Module):
    """Adversarial loss: `vanilla` (cross-entropy), `lsgan` (Mao et al., arXiv 1611.04076) or `hinge`.

    Args:
        gan_type: Which.
        loss_weight: Weight of the generator's loss; the discriminator's has none.

    Raises:
        ValueError: If the type is unknown.
    """

    def __init__(self, gan_type: str, loss_weight: float = 1.0) -> None:
        super().__init__()
        if gan_type not in GAN_TYPES:
            raise ValueError(f"gan_type must be one of {', '.join(GAN_TYPES)}, but received {gan_type!r}")
        self.gan_type = gan_type
        self.loss_weight = loss_weight

    def forward(self, judged: Tensor, target_is_real: bool, is_disc: bool = False) -> Tensor:
        """Compare judgements with what they should be.

        Args:
            judged: Logits of a discriminator.
            target_is_real: Whether they should say `real`.
            is_disc: Whether the discriminator is what learns.

        Returns:
            A scalar.
        """
        if self.gan_type == "hinge":
            sign = 1.0 if target_is_real else -1.0
            loss = F.relu(1 - sign * judged).mean() if is_disc else -judged.mean()
        else:
            target = torch.full_like(judged, float(target_is_real))
            compare = F.mse_loss if self.gan_type == "lsgan" else F.binary_cross_entropy_with_logits
            loss = compare(judged, target)
        return loss if is_disc else self.loss_weight * loss


class _PixelLoss(nn.Module):
    """A mean over all values of two images.

    Args:
        loss_weight: Weight of the loss.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, image: Tensor, target: Tensor) -> Tensor:
        """Compare two tensors of one shape; returns a scalar."""
        return self.loss_weight * self._compare(image, target)

    def _compare(self, image: Tensor, target: Tensor) -> Tensor:
        raise NotImplementedError


class L1Loss(_PixelLoss):
    """Mean absolute error."""

    def _compare(self, image: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(image, target)


class MSELoss(_PixelLoss):
    """Mean squared error."""

    def _compare(self, image: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(image, target)


class CharbonnierLoss(_PixelLoss):
    """Mean of sqrt(error² + eps), a smooth L1.

    Args:
        loss_weight: Weight of the loss.
        eps: Where it turns from quadratic to linear, squared.
    """

    def __init__(self, loss_weight: float = 1.0, eps: float = 1e-12) -> None:
        super().__init__(loss_weight)
        self.eps = eps

    def _compare(self, image: Tensor, target: Tensor) -> Tensor:
        return torch.sqrt((image - target) ** 2 + self.eps).mean()
