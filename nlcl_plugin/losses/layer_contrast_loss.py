"""Layer contrast: non-local neighbours within one layer attract, patches of the other layer repel.

The symmetric form is the loss of NLCL (Ye et al., CVPR 2022, arXiv 2203.11509): supervised contrastive learning in its
L_out form (Khosla et al., NeurIPS 2020, arXiv 2004.11362, eq. 2) with the layer as the label. The journal version
(arXiv 2211.00837) makes it asymmetric, as rain patches have a lower intrinsic dimension than image patches; its formula
was not available to us, so the asymmetric knobs here (a temperature and a weight per layer) are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nlcl_plugin.losses.gather import gather_rows

FORMS = ("out",)
ASYMMETRIES = ("none", "fixed")


def layer_contrast(
    image: Tensor,
    rain: Tensor,
    *,
    temperature_image: float = 0.07,
    temperature_rain: float = 0.07,
    weight_image: float = 1.0,
    weight_rain: float = 1.0,
    image_negatives: Tensor | None = None,
    rain_negatives: Tensor | None = None,
) -> Tensor:
    """Supervised contrast (L_out) between the patches of two layers, for each item of a batch by itself.

    Every patch is an anchor; its positives are the other patches of its layer, its negatives those of the other layer.
    Uses sum_p z_i·z_p = z_i·(sum_j z_j - z_i), so no label or mask tensors are needed. Computed in at least fp32, also
    inside autocast.

    Args:
        image: Embeddings of image-layer patches (B, N_image, D), of unit length.
        rain: Embeddings of rain-layer patches (B, N_rain, D), of unit length.
        temperature_image: Temperature of the image anchors; the lower, the tighter the layer is pulled.
        temperature_rain: Temperature of the rain anchors.
        weight_image: Weight of each image anchor in the mean over all anchors.
        weight_rain: Weight of each rain anchor.
        image_negatives: Negatives of the image anchors (M, D), the same for all items; by default the rain patches of
            the anchor's own item.
        rain_negatives: Negatives of the rain anchors (M, D); by default the image patches of the anchor's own item.

    Returns:
        The loss (B,), one value an item: sum over anchors of weight × loss, over the number of anchors.

    Raises:
        ValueError: If the shapes don't fit or a layer has fewer than two patches.
    """
    _check_embeddings(image, rain)
    n_image, n_rain = image.shape[1], rain.shape[1]
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, rain = image.to(dtype), rain.to(dtype)
        total = image.new_zeros(image.shape[0])
        for anchors, negatives, temperature, weight in (
            (image, rain if image_negatives is None else image_negatives.to(dtype), temperature_image, weight_image),
            (rain, image if rain_negatives is None else rain_negatives.to(dtype), temperature_rain, weight_rain),
        ):
            n = anchors.shape[1]
            itself = torch.eye(n, dtype=torch.bool, device=anchors.device)
            own = (anchors @ anchors.transpose(1, 2) / temperature).masked_fill(itself, -math.inf)  # (B, n, n)
            other = anchors @ negatives.transpose(-2, -1) / temperature  # (B, n, M)
            log_denominator = torch.cat((own, other), dim=-1).logsumexp(dim=-1)
            similarity = (anchors * (anchors.sum(dim=1, keepdim=True) - anchors)).sum(dim=-1) / temperature
            total = total + weight * (log_denominator - similarity / (n - 1)).sum(dim=-1)
        return total / (n_image + n_rain)


def layer_contrast_floor(n_image: int, n_rain: int, *, weight_image: float = 1.0, weight_rain: float = 1.0) -> float:
    """Value that `layer_contrast` cannot go below, approached as the layers separate and each becomes one point.

    It is the anchor-weighted mean of log(P - 1), P patches a layer: each anchor shares its denominator with P - 1
    positives. A loss near this value teaches nothing, so log the loss minus its floor.

    Args:
        n_image: Image patches.
        n_rain: Rain patches.
        weight_image: Weight of the image anchors.
        weight_rain: Weight of the rain anchors.

    Returns:
        The floor.

    Example:
        >>> round(layer_contrast_floor(8, 128), 2)
        4.67
    """
    floor = weight_image * n_image * math.log(n_image - 1) + weight_rain * n_rain * math.log(n_rain - 1)
    return floor / (n_image + n_rain)


class AsymmetricNLCLLoss(nn.Module):
    """Layer contrast over feature taps (see `layer_contrast`).

    Args:
        loss_weight: Weight of the loss.
        form: `out`: SupCon's L_out, positives in the denominator.
        asymmetry: `none`: both layers alike, exactly the CVPR loss. `fixed` (ours): the per-layer temperatures and
            weights below are used.
        temperature: Temperature of both layers, or of those without their own.
        temperature_image: Temperature of the image anchors, with `asymmetry="fixed"`.
        temperature_rain: Temperature of the rain anchors, with `asymmetry="fixed"`.
        weight_image: Weight of the image anchors, with `asymmetry="fixed"`.
        weight_rain: Weight of the rain anchors, with `asymmetry="fixed"`.
        gather_negatives: Take the negatives from all images of the batch and, in distributed training, of all
            processes, with their gradients; positives stay within the image. All processes must call the loss alike.

    Raises:
        ValueError: If a name is unknown, a temperature is not positive, a weight is negative, or a per-layer value is
            given with `asymmetry="none"`.

    Example:
        >>> loss = AsymmetricNLCLLoss()
        >>> image, rain = torch.eye(4)[None, [0, 0, 0]], torch.eye(4)[None, [1, 1]]
        >>> value = loss([image], [rain])
        >>> round(value.item(), 4), round(loss.floor([image], [rain]), 4)
        (0.4159, 0.4159)
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        form: str = "out",
        asymmetry: str = "none",
        temperature: float = 0.07,
        temperature_image: float | None = None,
        temperature_rain: float | None = None,
        weight_image: float = 1.0,
        weight_rain: float = 1.0,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, but received {form!r}")
        if asymmetry not in ASYMMETRIES:
            raise ValueError(f"asymmetry must be one of {', '.join(ASYMMETRIES)}, but received {asymmetry!r}")
        per_layer = (temperature_image, temperature_rain, weight_image, weight_rain)
        if asymmetry == "none" and per_layer != (None, None, 1.0, 1.0):
            raise ValueError("per-layer temperatures and weights need asymmetry: fixed, but received asymmetry: none")
        self.loss_weight = loss_weight
        self.form = form
        self.asymmetry = asymmetry
        self.temperature_image = temperature if temperature_image is None else temperature_image
        self.temperature_rain = temperature if temperature_rain is None else temperature_rain
        self.weight_image = weight_image
        self.weight_rain = weight_rain
        self.gather_negatives = gather_negatives
        if min(self.temperature_image, self.temperature_rain) <= 0:
            raise ValueError(
                f"temperatures must be positive, but received {self.temperature_image} (image) and "
                f"{self.temperature_rain} (rain)"
            )
        if min(weight_image, weight_rain) < 0:
            raise ValueError(f"weights must not be negative, but received {weight_image} and {weight_rain}")

    def forward(self, image_embeddings: Sequence[Tensor], rain_embeddings: Sequence[Tensor]) -> Tensor:
        """Mean over taps and batch, times `loss_weight`.

        Args:
            image_embeddings: One (B, N_image, D) a tap, of unit length.
            rain_embeddings: One (B, N_rain, D) a tap, of unit length.

        Returns:
            A scalar.

        Raises:
            ValueError: If the numbers of taps differ or are zero, or the shapes don't fit.
        """
        _check_taps(image_embeddings, rain_embeddings)
        values = [
            layer_contrast(
                image,
                rain,
                temperature_image=self.temperature_image,
                temperature_rain=self.temperature_rain,
                weight_image=self.weight_image,
                weight_rain=self.weight_rain,
                image_negatives=gather_rows(rain).flatten(0, 1) if self.gather_negatives else None,
                rain_negatives=gather_rows(image).flatten(0, 1) if self.gather_negatives else None,
            ).mean()
            for image, rain in zip(image_embeddings, rain_embeddings, strict=True)
        ]
        return self.loss_weight * torch.stack(values).mean()

    def floor(self, image_embeddings: Sequence[Tensor], rain_embeddings: Sequence[Tensor]) -> float:
        """The value that `forward` cannot go below for embeddings of these shapes (see `layer_contrast_floor`)."""
        floors = [
            layer_contrast_floor(
                image.shape[1], rain.shape[1], weight_image=self.weight_image, weight_rain=self.weight_rain
            )
            for image, rain in zip(image_embeddings, rain_embeddings, strict=True)
        ]
        return self.loss_weight * sum(floors) / len(floors)


def _check_taps(first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
    if not first or len(first) != len(second):
        raise ValueError(f"expected two lists with an entry a tap each, but received {len(first)} and {len(second)}")


def _check_embeddings(image: Tensor, rain: Tensor) -> None:
    if image.dim() != 3 or rain.dim() != 3 or image.shape[0] != rain.shape[0] or image.shape[2] != rain.shape[2]:
        raise ValueError(
            "expected embeddings (B, N_image, D) and (B, N_rain, D), but received "
            f"{tuple(image.shape)} and {tuple(rain.shape)}"
        )
    if min(image.shape[1], rain.shape[1]) < 2:
        raise ValueError(
            "a layer needs at least two patches, as each is the other's positive, but received "
            f"{image.shape[1]} (image) and {rain.shape[1]} (rain)"
        )
