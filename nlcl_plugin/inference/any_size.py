"""Infer on images of any size in bands or tiles, with the result of the whole image."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.inference.adaptive import factor_of_amount, strengthen
from nlcl_plugin.inference.streamed_generator import stream_generator

TILE = 1024  # pixels; a tile's feature maps take tens of megabytes
COLOUR_CELL = 64  # pixels of the copy in which rain is found; see docs/real_rain.md for other sizes


@torch.no_grad()
def infer(net: nn.Module, images: Tensor, *, window: int = 1) -> Tensor:
    """Run a network whose output has the size of its input; equal to `net(images)` up to rounding.

    With a single image a `LayerGenerator` runs in bands of rows, and a network that declares its receptive field
    (`reach`, `tile_multiple`) in tiles.

    Args:
        net: The network, on the device of the images.
        images: (B, C, H, W), RGB in [0, 1].
        window: What the network needs height and width to be a multiple of.

    Returns:
        The output (B, C, H, W), not clipped.
    """
    if len(images) == 1 and isinstance(net, LayerGenerator):
        return stream_generator(net, images)
    if len(images) == 1 and hasattr(net, "reach"):
        return run_tiled(net, images, reach=net.reach, multiple=net.tile_multiple, tile=TILE)  # type: ignore[arg-type]
    return run_padded(net, images, window)


def run_adjusted(
    net: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    makes_rain: bool,
    longest_side: int = 0,
    strength: float = 1.0,
    adaptive: bool = False,
    keep_colours: bool = False,
) -> Tensor:
    """Run a network from rainy images O (B, 3, H, W) to B, or R, with the settings of a `Derainer` (ours).

    Streaks are wide in large photographs, wider than networks know them: of images larger than `longest_side` R is
    found in a copy and enlarged. With `strength` 1 finer detail than the copy's cannot be damaged.

    Returns:
        R if the network makes it, else O - R; without settings `net(images)`.
    """
    size = images.shape[-2:]
    smaller = 0 < longest_side < max(size)
    if not smaller and strength == 1 and not adaptive and not keep_colours:
        return net(images)
    seen = images
    if smaller:
        sides = [max(1, round(side * longest_side / max(size))) for side in size]
        seen = F.interpolate(images, sides, mode="bilinear", antialias=True)
    output = net(seen)
    rain = output if makes_rain else seen - output
    factor = torch.full_like(rain[:, 0, 0, 0], strength)
    if adaptive:
        factor = factor * factor_of_amount(rain)
    if smaller:
        rain = F.interpolate(rain, size, mode="bicubic")
    scale = max(size) / longest_side if smaller else 1.0
    if strength != 1 or adaptive:
        rain = strengthen(images, rain, factor, scale=scale)
    if keep_colours:
        rain = rain - low_frequencies(rain, round(scale * COLOUR_CELL))
    return rain if makes_rain else images - rain


def low_frequencies(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) without what is finer than about `side` pixels: means of such cells, interpolated."""
    size = images.shape[-2:]
    cells = F.interpolate(images, [max(1, round(length / side)) for length in size], mode="area")
    return F.interpolate(cells, size, mode="bilinear")


def run_padded(net: Callable[[Tensor], Tensor], images: Tensor, multiple: int) -> Tensor:
    """Run a network on images (B, C, H, W) that are mirrored at the right and bottom to a size it takes.

    That is a multiple of `multiple`, such as the window size of a SwinIR. As many pixels of the output are cut off.
    """
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    # A mirror image is no larger than the image; the rare tiny one is continued by its edge.
    mode = "reflect" if bottom < height and right < width else "replicate"
    output = net(F.pad(images, (0, right, 0, bottom), mode=mode))
    return output[..., : output.shape[-2] - bottom, : output.shape[-1] - right]


def run_tiled(net: Callable[[Tensor], Tensor], images: Tensor, *, reach: int, multiple: int, tile: int) -> Tensor:
    """Run a network whose output depends on nearby pixels only, in tiles that overlap by its receptive field (ours).

    Equal to `net(images)` up to rounding if `reach` and `multiple` are true of the network: its zero padding applies
    at the borders of the image only, as on the whole image.

    Args:
        net: A network whose output has the shape of its input.
        images: (B, C, H, W).
        reach: How many pixels away an input can change an output.
        multiple: Side of the pixel groups that the network's strides make: tiles begin at multiples of it.
        tile: Side of a tile without its overlap, about; at least `multiple`.

    Returns:
        The output (B, C, H, W).
    """
    height, width = images.shape[-2:]
    reach, tile = -(-reach // multiple) * multiple, tile // multiple * multiple
    output = torch.empty_like(images)
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            above, before = max(top - reach, 0), max(left - reach, 0)
            bottom, right = min(top + tile, height), min(left + tile, width)
            made = net(images[..., above : bottom + reach, before : right + reach])
            output[..., top:bottom, left:right] = made[
                ..., top - above : bottom - above, left - before : right - before
            ]
    return output
