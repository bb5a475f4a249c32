"""Patch centres drawn at random, and the feature vectors of a network layer at given centres."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_at(features: Tensor, centres: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Pick the feature vectors of a layer at pixel positions of the image it was computed from.

    The layer may have another resolution than the image: row ``r`` of an image of height ``H`` is row
    ``floor(r * h / H)`` of a layer of height ``h``, limited to ``[0, h - 1]``; the same for columns.

    Args:
        features: Output of a layer (B, C, h, w); gradients flow back to it.
        centres: Integer image positions (B, N, 2) as (row, column).
        image_size: Height and width (H, W) of the image.

    Returns:
        Feature vectors (B, N, C), of the dtype of ``features``.

    Raises:
        TypeError: If ``centres`` is not integer.
        ValueError: If a shape is wrong.

    Example:
        >>> features = torch.arange(4.0).view(1, 1, 2, 2)  # a layer at half the resolution
        >>> gather_at(features, torch.tensor([[[0, 3], [2, 1]]]), (4, 4)).tolist()
        [[[1.0], [2.0]]]
    """
    if centres.is_floating_point() or centres.is_complex() or centres.dtype == torch.bool:
        raise TypeError(f"centres must be integer (row, column) positions, got {centres.dtype}")
    if features.ndim != 4 or centres.ndim != 3 or centres.shape[0] != features.shape[0] or centres.shape[2] != 2:
        raise ValueError(
            "expected features (B, C, h, w) and centres (B, N, 2), but received "
            f"{tuple(features.shape)} and {tuple(centres.shape)}"
        )
    centres = centres.to(features.device, torch.int64)
    rows, columns = (
        torch.div(centres[..., axis] * size, full, rounding_mode="floor").clamp(0, size - 1)
        for axis, (size, full) in enumerate(zip(features.shape[2:], image_size, strict=True))
    )
    image = torch.arange(features.shape[0], device=features.device)[:, None]
    return features[image, :, rows, columns]


def random_centres(
    batch: int,
    num: int,
    image_size: tuple[int, int],
    patch_size: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw patch centres uniformly from those whose whole patch is inside the image.

    A patch centred at ``c`` covers ``[c - p // 2, c - p // 2 + p)`` per axis, with ``p = patch_size``, as in
    :func:`nonlocal_neighbours`.

    Args:
        batch: Number of images B.
        num: Number of centres per image N; they are independent, so one may come twice.
        image_size: Height and width (H, W) of the image in pixels.
        patch_size: Side of a patch in pixels.
        generator: Source of the randomness, on whose device the result is; torch's global one when not given.

    Returns:
        Centres (B, N, 2) as (row, column), int64; rows from ``p // 2`` to ``H - p + p // 2``, columns likewise.

    Raises:
        ValueError: If the image is smaller than the patch.

    Example:
        >>> random_centres(1, 2, (16, 16), 16).tolist()  # a single patch fits
        [[[8, 8], [8, 8]]]
    """
    height, width = image_size
    if min(height, width) < patch_size:
        raise ValueError(f"an image of {height} x {width} pixels is smaller than the patch_size {patch_size}")
    source = None if generator is None else generator.device
    axes = [
        torch.randint(size - patch_size + 1, (batch, num), generator=generator, device=source) + patch_size // 2
        for size in (height, width)
    ]
    return torch.stack(axes, -1)
