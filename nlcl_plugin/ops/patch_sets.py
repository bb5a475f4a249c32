"""Patches as points: which places of an image have any, and their values as vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_deviation(images: Tensor, patch_size: int) -> Tensor:
    """Standard deviation within every patch: the root mean square of its values less their mean in each channel.

    Args:
        images: (B, C, H, W).
        patch_size: Side of a patch in pixels.

    Returns:
        (B, H - patch_size + 1, W - patch_size + 1), float64, by the patches' first pixels.

    Raises:
        ValueError: If the image is smaller than a patch.

    Example:
        >>> image = torch.zeros(1, 1, 4, 6)
        >>> image[..., 4:] = 1.0  # dark at the left, bright at the right
        >>> [round(value, 3) for value in patch_deviation(image, 4)[0, 0].tolist()]
        [0.0, 0.433, 0.5]
    """
    if min(images.shape[-2:]) < patch_size:
        size = f"{images.shape[-2]} x {images.shape[-1]}"
        raise ValueError(f"an image of {size} pixels is smaller than the patch_size {patch_size}")
    # From the mean of all and in float64: the difference of two large sums would have no small deviations left.
    values = images.double()
    values = values - values.mean((2, 3), keepdim=True)
    mean = _box_mean(values, patch_size)
    squares = _box_mean(values.square().mean(1, keepdim=True), patch_size)[:, 0]
    return (squares - mean.square().mean(1)).clamp_(min=0).sqrt_()


def _box_mean(values: Tensor, size: int) -> Tensor:
    """Means of all squares of a side, by running sums: as fast for large squares as for small ones."""
    for axis in (2, 3):
        sums = F.pad(values.cumsum(axis), (1, 0) if axis == 3 else (0, 0, 1, 0))
        length = sums.shape[axis] - size
        values = (sums.narrow(axis, size, length) - sums.narrow(axis, 0, length)) / size
    return values


def textured_centres(allowed: Tensor, num: int, patch_size: int, *, generator: torch.Generator | None) -> Tensor:
    """Draw different patch centres of one image from those that are allowed.

    Args:
        allowed: Whether the patch with its first pixel there may be drawn (H', W').
        num: Number of centres.
        patch_size: Side of a patch in pixels.
        generator: Source of the randomness; torch's global one when None.

    Returns:
        Centres (n, 2) as (row, column), int64, in random order: ``num``, or all there are if those are fewer.
    """
    places = allowed.nonzero()
    # A generator draws on its own device only: with a CPU generator a run gets the same centres on any device.
    order = torch.randperm(len(places), generator=generator, device=generator.device if generator else None)
    return places[order[:num].to(places.device)] + patch_size // 2


def gather_patches(images: Tensor, centres: Tensor, patch_size: int) -> Tensor:
    """Take the values of patches as vectors.

    A patch centred at ``c`` covers ``[c - p // 2, c - p // 2 + p)`` per axis, with ``p = patch_size``, as in
    :func:`nonlocal_neighbours`.

    Args:
        images: (B, C, H, W).
        centres: Integer centres (B, N, 2) as (row, column), each with its whole patch inside the image.
        patch_size: Side of a patch in pixels.

    Returns:
        (B, N, C * patch_size * patch_size), of the dtype of the images.

    Example:
        >>> image = torch.arange(9.0).view(1, 1, 3, 3)
        >>> gather_patches(image, torch.tensor([[[1, 1], [2, 2]]]), 2).tolist()
        [[[0.0, 1.0, 3.0, 4.0], [4.0, 5.0, 7.0, 8.0]]]
    """
    # By pixel, not from unfolded windows: the gradient of those is as large as all windows together.
    reach = torch.arange(patch_size, device=images.device) - patch_size // 2
    rows = (centres[..., 0, None] + reach)[..., :, None]
    columns = (centres[..., 1, None] + reach)[..., None, :]
    image = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images[image, :, rows, columns].movedim(-1, 2).flatten(2)
