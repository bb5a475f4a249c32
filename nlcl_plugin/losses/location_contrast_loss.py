"""Location contrast: an output patch matches the input patch at its own place and no other.

PatchNCE of CUT (Park et al., ECCV 2020, arXiv 2007.15651), which NLCL (arXiv 2203.11509) uses between the rainy image
and the image layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nlcl_plugin.losses.gather import gather_rows

NEGATIVES = ("random", "similar", "dissimilar")


def location_contrast(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float = 0.07,
    negatives: str = "random",
    num_negatives: int | None = None,
    all_keys: Tensor | None = None,
) -> Tensor:
    """InfoNCE whose positive is the key at the query's place and whose negatives are keys at other places of the image.

    The keys are detached: the output follows the input, not the reverse. Computed in at least fp32, also inside
    autocast.

    Args:
        queries: Embeddings of the output (B, N, D), of unit length; place n of one is place n of the other.
        keys: Embeddings of the input (B, N, D), of unit length.
        temperature: Temperature.
        negatives: `random`: the keys of all other sampled places. `similar`: those most like the key of the query's
            place (as in the released code, which samples all places among the nearest neighbours of one patch).
            `dissimilar`: those least like it, as the paper's figure draws it.
        num_negatives: How many negatives `similar` and `dissimilar` keep; half of the others by default.
        all_keys: Keys (M, D) of several images, `keys` among them, all of which but the positive are negatives; for
            `random` only.

    Returns:
        The loss (B,), the mean over places.

    Raises:
        ValueError: If the shapes differ, there are fewer than two places, or the choice of negatives is impossible.
    """
    if queries.dim() != 3 or queries.shape != keys.shape:
        raise ValueError(f"expected two (B, N, D), but received {tuple(queries.shape)} and {tuple(keys.shape)}")
    n = queries.shape[1]
    if n < 2:
        raise ValueError(f"location contrast needs at least two locations per image, but received {n}")
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives must be one of {', '.join(NEGATIVES)}, but received {negatives!r}")
    kept = max(1, (n - 1) // 2) if num_negatives is None else num_negatives
    if not 1 <= kept <= n - 1:
        raise ValueError(f"num_negatives must be in [1, {n - 1}] for {n} places, but received {kept}")
    with torch.autocast(queries.device.type, enabled=False):
        dtype = torch.promote_types(queries.dtype, torch.float32)
        queries, keys = queries.to(dtype), keys.detach().to(dtype)
        logits = queries @ keys.transpose(1, 2) / temperature  # (B, N, N), the positives on the diagonal
        if negatives != "random":
            logits = logits.masked_fill(~_chosen(keys, kept, similar=negatives == "similar"), -math.inf)
        positives = logits.diagonal(dim1=1, dim2=2)
        if all_keys is not None:
            logits = queries @ all_keys.detach().to(dtype).T / temperature  # (B, N, M)
        return (logits.logsumexp(dim=-1) - positives).mean(dim=-1)


def _chosen(keys: Tensor, kept: int, *, similar: bool) -> Tensor:
    """Mask (B, N, N) of the positive and the `kept` most similar or most dissimilar other keys of each place."""
    n = keys.shape[1]
    itself = torch.eye(n, dtype=torch.bool, device=keys.device)
    likeness = keys @ keys.transpose(1, 2)
    rank = (likeness if similar else -likeness).masked_fill(itself, -math.inf)
    mask = itself.expand_as(likeness).clone()
    return mask.scatter(-1, rank.topk(kept, dim=-1).indices, True)


class LocationContrastLoss(nn.Module):
    """Location contrast over feature taps (see `location_contrast`).

    Args:
        loss_weight: Weight of the loss.
        temperature: Temperature.
        negatives: `random`, `similar` or `dissimilar`.
        num_negatives: How many negatives `similar` and `dissimilar` keep; half of the others by default.
        gather_negatives: Take the negatives from all images of the batch and, in distributed training, of all
            processes (the option of CUT, over processes too); for `random`. All processes must call the loss alike.

    Raises:
        ValueError: If `negatives` is unknown or doesn't go with `gather_negatives` or `num_negatives`, or the
            temperature is not positive.

    Example:
        >>> loss = LocationContrastLoss(temperature=1.0)
        >>> round(loss([torch.eye(3)[None]], [torch.eye(3)[None]]).item(), 4)  # log(e + 2) - 1
        0.5514
    """

    def __init__(
        self,
        loss_weight: float = 1.0,
        temperature: float = 0.07,
        negatives: str = "random",
        num_negatives: int | None = None,
        gather_negatives: bool = False,
    ) -> None:
        super().__init__()
        if negatives not in NEGATIVES:
            raise ValueError(f"negatives must be one of {', '.join(NEGATIVES)}, but received {negatives!r}")
        if temperature <= 0:
            raise ValueError(f"temperature must be positive, but received {temperature}")
        if gather_negatives and negatives != "random":
            raise ValueError(f"gather_negatives goes with negatives: random, but received {negatives!r}")
        if num_negatives is not None and negatives == "random":
            raise ValueError("num_negatives goes with negatives: similar or dissimilar, as random keeps all; remove it")
        self.loss_weight = loss_weight
        self.temperature = temperature
        self.negatives = negatives
        self.num_negatives = num_negatives
        self.gather_negatives = gather_negatives

    def forward(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Mean over taps and batch, times `loss_weight`.

        Args:
            queries: One (B, N, D) per tap, of unit length.
            keys: One (B, N, D) per tap, of unit length.

        Returns:
            A scalar.

        Raises:
            ValueError: If the numbers of taps differ or are zero, or the shapes don't fit.
        """
        if not queries or len(queries) != len(keys):
            raise ValueError(
                f"expected two lists with one entry per tap each, but received {len(queries)} and {len(keys)}"
            )
        values = [
            location_contrast(
                q,
                k,
                temperature=self.temperature,
                negatives=self.negatives,
                num_negatives=self.num_negatives,
                all_keys=gather_rows(k.detach()).flatten(0, 1) if self.gather_negatives else None,
            ).mean()
            for q, k in zip(queries, keys, strict=True)
        ]
        return self.loss_weight * torch.stack(values).mean()
