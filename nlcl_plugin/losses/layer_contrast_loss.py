"""Layer contrast: non-local neighbours within one layer attract, patches of the other layer repel.

The symmetric form is the loss of NLCL (Ye et al., CVPR 2022, arXiv 2203.11509): supervised contrastive learning in its
L_out form (Khosla et al., NeurIPS 2020, arXiv 2004.11362, eq. 2) with the layer as the label. The journal version
(arXiv 2211.00837) makes it asymmetric, as rain patches have a lower intrinsic dimension than image patches; its formula
was not available to us, so the asymmetric knobs here (a temperature and a weight per layer, set or measured) are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nlcl_plugin.losses.contrast_forms import FORMS, anchor_floor, anchor_losses
from nlcl_plugin.losses.gather import gather_rows

ASYMMETRIES = ("none", "fixed", "auto")
MOMENTUM = 0.9  # of the running mean that `auto` follows


class References(NamedTuple):
    """What each anchor is compared with, where it is not simply the other patches.

    Attributes:
        positives: (B, N, K, D).
        negatives: (B, N, M, D).
    """

    positives: Tensor
    negatives: Tensor


def layer_contrast(
    image: Tensor,
    rain: Tensor,
    *,
    form: str = "out",
    temperature_image: float | Tensor = 0.07,
    temperature_rain: float | Tensor = 0.07,
    weight_image: float = 1.0,
    weight_rain: float = 1.0,
    image_negatives: Tensor | None = None,
    rain_negatives: Tensor | None = None,
) -> Tensor:
    """Supervised contrast between the patches of two layers, separately for each item of a batch.

    Every patch is an anchor; its positives are the other patches of its layer, its negatives those of the other layer.
    Computed in at least fp32, also inside autocast.

    Args:
        image: Embeddings of image-layer patches (B, N_image, D), of unit length.
        rain: Embeddings of rain-layer patches (B, N_rain, D), of unit length.
        form: Form of the loss, see `anchor_losses`; `out` is NLCL's.
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
    if image.dim() != 3 or rain.dim() != 3 or image.shape[0] != rain.shape[0] or image.shape[2] != rain.shape[2]:
        raise ValueError(
            "expected embeddings (B, N_image, D) and (B, N_rain, D), but received "
            f"{tuple(image.shape)} and {tuple(rain.shape)}"
        )
    n_image, n_rain = image.shape[1], rain.shape[1]
    if min(n_image, n_rain) < 2:
        raise ValueError(
            "a layer needs at least two patches, as each is the other's positive, but received "
            f"{n_image} (image) and {n_rain} (rain)"
        )
    with torch.autocast(image.device.type, enabled=False):
        dtype = torch.promote_types(image.dtype, torch.float32)
        image, rain = image.to(dtype), rain.to(dtype)
        total = image.new_zeros(image.shape[0])
        for anchors, negatives, temperature, weight in (
            (image, rain if image_negatives is None else image_negatives.to(dtype), temperature_image, weight_image),
            (rain, image if rain_negatives is None else rain_negatives.to(dtype), temperature_rain, weight_rain),
        ):
            itself = torch.eye(anchors.shape[1], dtype=torch.bool, device=anchors.device)
            own = (anchors @ anchors.transpose(1, 2) / temperature).masked_fill(itself, -math.inf)  # (B, n, n)
            other = anchors @ negatives.transpose(-2, -1) / temperature  # (B, n, M)
            total = total + weight * anchor_losses(own, other, form).sum(dim=-1)
        return total / (n_image + n_rain)


def reference_contrast(
    anchors: Tensor, references: References, *, form: str = "single", temperature: float | Tensor = 0.02
) -> Tensor:
    """Contrast of patches with positives and negatives of their own (ours).

    The similarity is -|a - b|² / 2. For vectors of unit length that is the dot product less one, which changes no form
    of the loss; and it also suits raw pixels.

    Args:
        anchors: Patches (B, N, D).
        references: What each is compared with.
        form: Form of the loss, see `anchor_losses`.
        temperature: Temperature; of the size of a squared distance.

    Returns:
        The loss (B,): mean over anchors.

    Raises:
        ValueError: If the shapes don't fit.
    """
    positives, negatives = references
    for name, other in (("positives", positives), ("negatives", negatives)):
        if other.dim() != 4 or other.shape[:2] != anchors.shape[:2] or other.shape[3] != anchors.shape[2]:
            raise ValueError(
                f"expected anchors (B, N, D) and {name} (B, N, number, D), but received {tuple(anchors.shape)} and "
                f"{tuple(other.shape)}"
            )
    with torch.autocast(anchors.device.type, enabled=False):
        dtype = torch.promote_types(anchors.dtype, torch.float32)
        similarities = [
            -(anchors.to(dtype)[:, :, None] - other.to(dtype)).square().sum(dim=-1) / (2 * temperature)
            for other in (positives, negatives)
        ]
        return anchor_losses(similarities[0], similarities[1], form).mean(dim=-1)


def layer_contrast_floor(
    n_image: int,
    n_rain: int,
    *,
    form: str = "out",
    temperature_image: float | Tensor = 0.07,
    temperature_rain: float | Tensor = 0.07,
    weight_image: float = 1.0,
    weight_rain: float = 1.0,
) -> float:
    """Value that `layer_contrast` cannot go below, approached as the layers separate and each becomes one point.

    For `out` and `in` it is the anchor-weighted mean of log(P - 1), P patches per layer: the denominator of each anchor
    contains P - 1 positives. A loss near this value teaches nothing, so log the loss minus its floor.

    Args:
        n_image: Image patches.
        n_rain: Rain patches.
        form: Form of the loss, see `anchor_losses`.
        temperature_image: Temperature of the image anchors.
        temperature_rain: Temperature of the rain anchors.
        weight_image: Weight of the image anchors.
        weight_rain: Weight of the rain anchors.

    Returns:
        The floor.

    Example:
        >>> round(layer_contrast_floor(8, 128), 2)
        4.67
    """
    image = anchor_floor(n_image - 1, n_rain, temperature_image, form)
    rain = anchor_floor(n_rain - 1, n_image, temperature_rain, form)
    return (weight_image * n_image * image + weight_rain * n_rain * rain) / (n_image + n_rain)


class AsymmetricNLCLLoss(nn.Module):
    """Layer contrast over feature taps (see `layer_contrast`).

    Args:
        loss_weight: Weight of the loss.
        form: `out` (SupCon's L_out, the CVPR loss), `in`, `decoupled` or `single`; see `anchor_losses`.
        asymmetry: `none`: both layers alike, exactly the CVPR loss. `fixed` (ours): the per-layer temperatures and
            weights below are used. `auto` (ours): the temperatures follow the layers' intrinsic dimensions, which
            `observe` receives: image over rain is d_image / d_rain, their geometric mean is `temperature`. So the layer
            of lower dimension is pulled tighter; until something is observed both are alike.
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

    log_dimension_ratio: Tensor  # of `auto`

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
        if asymmetry != "fixed" and per_layer != (None, None, 1.0, 1.0):
            raise ValueError(
                f"per-layer temperatures and weights need asymmetry: fixed, but received asymmetry: {asymmetry}"
            )
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
        self.temperature = temperature
        if asymmetry == "auto":
            # A buffer, so that it is saved and resumed wherever the loss is; NaN: nothing was observed.
            self.register_buffer("log_dimension_ratio", torch.tensor(math.nan))

    def observe(self, log_dimension_ratio: float) -> None:
        """Take in a measurement of the layers' dimensions; needs `asymmetry="auto"`.

        Args:
            log_dimension_ratio: log(d_image / d_rain), as of `ops.dimension_ratio`; a running mean is kept.
        """
        old, new = self.log_dimension_ratio, torch.full_like(self.log_dimension_ratio, log_dimension_ratio)
        self.log_dimension_ratio = torch.where(old.isnan(), new, MOMENTUM * old + (1 - MOMENTUM) * new)

    def temperatures(self) -> tuple[float | Tensor, float | Tensor]:
        """Temperatures of image and rain anchors at present; tensors with `asymmetry="auto"`."""
        if self.asymmetry != "auto":
            return self.temperature_image, self.temperature_rain
        root = (self.log_dimension_ratio.nan_to_num() / 2).exp()
        return self.temperature * root, self.temperature / root

    def forward(
        self,
        image_embeddings: Sequence[Tensor],
        rain_embeddings: Sequence[Tensor],
        image_references: Sequence[References] | None = None,
        rain_references: Sequence[References] | None = None,
    ) -> Tensor:
        """Mean over taps and batch, times `loss_weight`.

        Args:
            image_embeddings: One (B, N_image, D) per tap, of unit length unless there are references.
            rain_embeddings: The same of the rain layer, (B, N_rain, D) per tap.
            image_references: What the image patches are compared with, one entry per tap, where positives and negatives
                are known better than by the layer alone, as on composites; see `reference_contrast`.
            rain_references: The same of the rain patches; goes with `image_references`.

        Returns:
            A scalar.

        Raises:
            ValueError: If the numbers of taps differ or are zero, or the shapes don't fit.
        """
        taps = len(image_embeddings), len(rain_embeddings)
        if taps[0] != taps[1] or not taps[0]:
            raise ValueError(f"expected two lists with one entry per tap each, but received {taps[0]} and {taps[1]}")
        if image_references is not None and rain_references is not None:
            return self._compared(image_embeddings, rain_embeddings, image_references, rain_references)
        if image_references is not None or rain_references is not None:
            raise ValueError("image_references and rain_references go together, but only one was given")
        values = [
            layer_contrast(
                image,
                rain,
                **self._knobs(),
                image_negatives=gather_rows(rain).flatten(0, 1) if self.gather_negatives else None,
                rain_negatives=gather_rows(image).flatten(0, 1) if self.gather_negatives else None,
            ).mean()
            for image, rain in zip(image_embeddings, rain_embeddings, strict=True)
        ]
        return self.loss_weight * torch.stack(values).mean()

    def _compared(
        self,
        image_embeddings: Sequence[Tensor],
        rain_embeddings: Sequence[Tensor],
        image_references: Sequence[References],
        rain_references: Sequence[References],
    ) -> Tensor:
        values = []
        temperature_image, temperature_rain = self.temperatures()
        for embeddings, references, temperature, weight in (
            (image_embeddings, image_references, temperature_image, self.weight_image),
            (rain_embeddings, rain_references, temperature_rain, self.weight_rain),
        ):
            for anchors, reference in zip(embeddings, references, strict=True):
                value = reference_contrast(anchors, reference, form=self.form, temperature=temperature)
                values.append(weight * value.mean())
        return self.loss_weight * torch.stack(values).mean()

    def _knobs(self) -> dict[str, Any]:
        temperature_image, temperature_rain = self.temperatures()
        return {
            "form": self.form,
            "temperature_image": temperature_image,
            "temperature_rain": temperature_rain,
            "weight_image": self.weight_image,
            "weight_rain": self.weight_rain,
        }

    def floor(self, image_embeddings: Sequence[Tensor], rain_embeddings: Sequence[Tensor]) -> float:
        """The value that `forward` cannot go below for embeddings of these shapes (see `layer_contrast_floor`)."""
        floors = [
            layer_contrast_floor(image.shape[1], rain.shape[1], **self._knobs())
            for image, rain in zip(image_embeddings, rain_embeddings, strict=True)
        ]
        return self.loss_weight * sum(floors) / len(floors)
