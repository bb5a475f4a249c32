"""Run a local network on an image tile by tile, with the result of the whole image (ours)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def run_tiled(
    net: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    reach: int,
    multiple: int = 1,
    tile: int = 1024,
    tell: Callable[[], object] = lambda: None,
) -> Tensor:
    """Run a network whose output depends on nearby pixels only, in tiles that overlap by what it sees.

    Equal to `net(images)` but for rounding if `reach` and `multiple` are true of the network; its zero padding comes
    into play at the borders of the image only, as on the whole image.

    Args:
        net: A network whose output has the size of its input.
        images: (B, C, H, W).
        reach: How many pixels away an input can change an output.
        multiple: Side of the pixel groups that the network's strides make: tiles begin at multiples of it.
        tile: Side of a tile without its overlap, about.
        tell: Called after each tile.

    Returns:
        The output (B, C, H, W).

    Raises:
        ValueError: If a size is below what makes sense.
    """
    if reach < 0 or multiple < 1 or tile < multiple:
        raise ValueError(f"expected reach >= 0, tile >= multiple >= 1, but received {reach}, {tile}, {multiple}")
    height, width = images.shape[-2:]
    reach, tile = -(-reach // multiple) * multiple, tile // multiple * multiple
    output: Tensor | None = None
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = max(top - reach, 0), max(left - reach, 0)
            bottom, right = min(top + tile, height), min(left + tile, width)
            made = net(images[..., above : bottom + reach, before : right + reach])
            if output is None:
                output = torch.empty((*made.shape[:-2], height, width), dtype=made.dtype, device=made.device)
            output[..., top:bottom, left:right] = made[
                ..., top - above : bottom - above, left - before : right - before
            ]
            tell()
    assert output is not None
    return output
