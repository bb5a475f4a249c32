"""A `LayerGenerator` on images of any size, band by band and exactly, with two feature maps in memory (ours).

Instance norm needs the mean and variance of a whole feature map before any of it can be normalised, so tiles of the
image would change the result. But a convolution can be run in bands of rows, and the statistics of its output gathered
meanwhile. Normalising, ReLU and the sum with the skip wait until the next convolution loads a band: all that happens
between two convolutions happens on rows that are in the cache anyway. A band is written over the rows it was made of.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nlcl_plugin.archs.layer_generator_arch import LayerGenerator

_EPS = 1e-5  # of F.instance_norm
_BAND_BYTES = 2 << 20  # of features in a band: what fits a core's cache
_BAND_BYTES_GPU = 256 << 20  # enough work for each kernel
_Load = Callable[[Tensor, int, int], None]  # fills a band (1, C, last - first, W) with rows first to last
_Affine = tuple[Tensor, Tensor]  # scale and shift (1, C, 1, 1), which normalise a feature map


@torch.no_grad()
def stream_generator(
    net: LayerGenerator,
    image: Tensor,
    *,
    rows: int | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Run a generator on an image; equal to `net(image)` up to rounding (about 1e-5).

    Besides the image and the result it needs two feature maps, num_feat × H × W values each, and a few bands.

    Args:
        net: The generator.
        image: Rainy image (1, C, H, W), RGB in [0, 1].
        rows: Rows of a band; by default as many as fit a core's cache, on a GPU more.
        on_step: Called after each convolution, `num_block` × 2 + 4 times.

    Returns:
        The layer (1, C, H, W), not clipped.

    Raises:
        ValueError: If there is more than one image.
    """
    if image.dim() != 4 or image.shape[0] != 1 or 0 in image.shape:
        raise ValueError(f"expected one image (1, C, H, W), but received the shape {tuple(image.shape)}")
    height, width = image.shape[-2:]
    band_bytes = _BAND_BYTES if image.device.type == "cpu" else _BAND_BYTES_GPU
    rows = rows or max(4, band_bytes // (4 * width * net.num_feat))
    # Channels last: rows of a band are neighbours in memory.
    trunk, branch = (
        torch.empty((1, height, width, net.num_feat), dtype=image.dtype, device=image.device).permute(0, 3, 1, 2)
        for _ in range(2)
    )
    norm: list[_Affine] = []  # of what is in `branch`, once something is

    def rescaled(band: Tensor, first: int, last: int) -> None:
        torch.mul(image[:, :, first:last], 2, out=band).sub_(1)

    def summed(band: Tensor, first: int, last: int) -> None:
        rows_of = trunk[:, :, first:last]
        if norm:  # the block before is over: its sum replaces its input
            rows_of.addcmul_(branch[:, :, first:last], norm[-1][0]).add_(norm[-1][1])
        band.copy_(rows_of)

    def activated(band: Tensor, first: int, last: int) -> None:
        torch.addcmul(norm[-1][1], branch[:, :, first:last], norm[-1][0], out=band).relu_()

    def plain(band: Tensor, first: int, last: int) -> None:
        band.copy_(branch[:, :, first:last])

    def convolve(conv: nn.Conv2d, load: _Load, out: Tensor) -> _Affine:
        statistics = _convolve(conv, load, out, rows)
        on_step()
        return statistics.affine(image.dtype)

    convolve(net.head, rescaled, trunk)
    for conv1, conv2 in [(block.conv1, block.conv2) for block in net.blocks]:
        norm.append(convolve(conv1, summed, branch))  # type: ignore[arg-type]
        norm.append(convolve(conv2, activated, branch))  # type: ignore[arg-type]
    norm.append(convolve(net.tail1, summed, branch))
    convolve(net.tail2, activated, branch)
    layer = torch.empty((1, net.last.out_channels, height, width), dtype=image.dtype, device=image.device)
    with torch.autocast(image.device.type, enabled=False):  # as in `archs.output_layer`
        convolve(net.last, plain, layer)
    return net.to_layer(layer, image)


class _Statistics:
    """Mean and variance of each channel of a feature map that comes in bands."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.spread: Tensor | float = 0.0  # sum of squared differences from the mean

    def add(self, band: Tensor) -> None:
        values = band.permute(0, 2, 3, 1).flatten(0, 2).to(torch.promote_types(band.dtype, torch.float32))
        count, mean = len(values), values.mean(dim=0)
        spread = (values - mean).square_().sum(dim=0)
        # Of two groups joined (Chan, Golub & LeVeque, 1979): no cancellation, as sums of squares would have.
        total, delta = self.count + count, mean.double() - self.mean
        self.spread = self.spread + spread.double() + delta.square() * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def affine(self, dtype: torch.dtype) -> _Affine:
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.spread, Tensor)
        scale = (self.spread / self.count + _EPS).rsqrt()
        return scale.to(dtype).view(1, -1, 1, 1), (-self.mean * scale).to(dtype).view(1, -1, 1, 1)


def _convolve(conv: nn.Conv2d, load: _Load, out: Tensor, rows: int) -> _Statistics:
    """A 3 × 3 convolution in bands, whose `load` is asked for each row of its input once, in order.

    So `out` may be what `load` reads from: the two rows that the next band needs again are kept.
    """
    height, width = out.shape[-2:]
    shape = (1, rows + 2, width, conv.in_channels)
    band = torch.zeros(shape, dtype=conv.weight.dtype, device=out.device).permute(0, 3, 1, 2)
    weight = conv.weight.contiguous(memory_format=torch.channels_last)
    statistics = _Statistics()
    load(band[:, :, 1:2], 0, 1)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        behind = min(last + 1, height)
        if first:
            band[:, :, :2] = band[:, :, rows:].clone()
        if behind > first + 1:
            load(band[:, :, 2 : behind - first + 1], first + 1, behind)
        if last == height:
            band[:, :, last - first + 1] = 0
        made = F.conv2d(band[:, :, : last - first + 2], weight, conv.bias, padding=(0, 1))
        statistics.add(made)
        out[:, :, first:last] = made
    return statistics
