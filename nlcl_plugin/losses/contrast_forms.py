"""Forms of a contrastive loss: what one anchor pays, given its similarities to positives and negatives."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

FORMS = ("out", "in", "decoupled", "single")


def anchor_losses(positives: Tensor, negatives: Tensor, form: str = "out") -> Tensor:
    """Contrast of each anchor.

    With similarities s over the temperature, P positives p and M negatives n:

    - `out`: mean_p [-s_p + log(Σ_p e^s_p + Σ_n e^s_n)]: SupCon's L_out (Khosla et al., arXiv 2004.11362, eq. 2). With
      several positives it cannot go below log P, where its gradient ends.
    - `in`: -log mean_p e^s_p + log(Σ_p e^s_p + Σ_n e^s_n): SupCon's L_in (eq. 3). The nearest positive counts most.
    - `decoupled`: mean_p [-s_p] + log Σ_n e^s_n: no positives in the denominator (after Yeh et al., ECCV 2022, arXiv
      2110.06848). No log P floor; for similarities without bounds it has no minimum.
    - `single`: mean_p log(1 + Σ_n e^(s_n - s_p)): each positive alone against the negatives, InfoNCE with several
      positives. Its least value is 0, and it fades out as the anchor comes closer to positives than to negatives.

    Args:
        positives: Similarities to positives (..., P); -inf where there is none, the same number in each row.
        negatives: Similarities to negatives (..., M).
        form: One of `FORMS`.

    Returns:
        The losses (...).

    Raises:
        ValueError: If the form is unknown.

    Example:
        >>> s = torch.tensor([2.0, 2.0]), torch.tensor([0.0])
        >>> [round(anchor_losses(*s, form).item(), 3) for form in FORMS]
        [0.759, 0.759, -2.0, 0.127]
    """
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, but received {form!r}")
    present = positives > -math.inf
    count = present.sum(dim=-1).to(positives.dtype)
    if form == "single":
        # An absent positive gets a finite stand-in, as 0 × inf would make its gradient NaN.
        excess = negatives.logsumexp(dim=-1, keepdim=True) - positives.masked_fill(~present, 0)
        return F.softplus(excess).masked_fill(~present, 0).sum(dim=-1) / count
    mean = positives.masked_fill(~present, 0).sum(dim=-1) / count
    if form == "decoupled":
        return negatives.logsumexp(dim=-1) - mean
    everything = torch.cat((positives, negatives), dim=-1).logsumexp(dim=-1)
    if form == "in":
        return everything - positives.logsumexp(dim=-1) + count.log()
    return everything - mean


def anchor_floor(num_positives: int, num_negatives: int, temperature: float | Tensor, form: str = "out") -> float:
    """Value that `anchor_losses` cannot go below for embeddings of unit length and their dot products.

    Args:
        num_positives: Positives of an anchor.
        num_negatives: Negatives of an anchor.
        temperature: Temperature.
        form: One of `FORMS`.

    Returns:
        log P for `out` and `in`, approached as the temperature falls; log M - 2 / temperature for `decoupled`; 0 for
        `single`.
    """
    if form == "decoupled":
        return math.log(num_negatives) - 2 / float(temperature)  # read only here: a tensor's device is waited for
    return 0.0 if form == "single" else math.log(num_positives)
