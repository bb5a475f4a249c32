"""The generator that estimates one layer of a rainy image.

The network is the one of the released NLCL code (Ye et al., "Unsupervised Deraining: Where Contrastive Learning Meets
Self-similarity", CVPR 2022, arXiv 2203.11509), so that its weights load after `basicsr convert`.
The `residual` output is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nlcl_plugin.archs.feature_taps import FeatureTaps
from nlcl_plugin.archs.memory_layout import in_layout_of
from nlcl_plugin.archs.output_layer import full_precision, start_small

LAYERS = ("image", "rain", "residual")


class _ResidualBlock(nn.Module):
    """conv-IN-ReLU-conv-IN with an identity skip and no activation after the sum."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(_instance_norm(self.conv1(x)))
        return x + _instance_norm(self.conv2(out))


def _instance_norm(x: Tensor) -> Tensor:
    # A one-pixel map has no variance to divide by and torch refuses it; its normalised value is zero.
    return in_layout_of(F.instance_norm(x), x) if x.shape[-1] * x.shape[-2] > 1 else x * 0


class LayerGenerator(FeatureTaps):
    """Estimate the image layer B (or the rain layer R) of a rainy image O.

    Instance norm has no running statistics, so cutting an image into tiles changes the result: run it on whole
    images.

    Args:
        num_in_ch: Channels of the input.
        num_out_ch: Channels of the last convolution. With `layer="residual"` this is 1 (grey rain) or `num_in_ch`.
        num_feat: Channels of the features.
        num_block: Number of residual blocks.
        layer: What the output is. `image`: B = (y + 1) / 2. `rain`: R = y / 2. `residual` (ours):
            B = O - R with R = softplus(10 y - 2) / 10 >= 0, so that B + R = O holds exactly, the rain only brightens,
            and training starts near R = 0.
        checkpointing: Keep no activations inside the residual blocks for the backward pass but compute them again:
            less memory, more time, the same gradients.

    Raises:
        ValueError: If `layer` is unknown or the channels do not fit.

    Shape:
        Input (B, num_in_ch, H, W), RGB in [0, 1]; output (B, C, H, W) in the same range (not clipped), with C =
        num_in_ch for `residual`, else num_out_ch. Feature taps are (B, num_feat, H, W).

    Example:
        >>> net = LayerGenerator()
        >>> sum(p.numel() for p in net.parameters())
        316195
        >>> image, (first, fourth) = net(torch.rand(1, 3, 24, 32), taps=(0, 4))
        >>> tuple(image.shape), tuple(fourth.shape)
        ((1, 3, 24, 32), (1, 32, 24, 32))
    """

    def __init__(
        self,
        num_in_ch: int = 3,
        num_out_ch: int = 3,
        num_feat: int = 32,
        num_block: int = 16,
        layer: str = "image",
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if layer not in LAYERS:
            raise ValueError(f"layer must be one of {', '.join(LAYERS)}, but received {layer!r}")
        if layer == "residual" and num_out_ch not in (1, num_in_ch):
            raise ValueError(f"a residual generator needs num_out_ch 1 or {num_in_ch}, but received {num_out_ch}")
        self.layer = layer
        self.num_feat = num_feat
        self.num_block = num_block
        self.step_channels = [num_feat] * (num_block + 2)
        self.checkpointing = checkpointing
        self.head = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.blocks = nn.ModuleList(_ResidualBlock(num_feat) for _ in range(num_block))
        self.tail1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        if layer == "residual":
            # R starts small but with a gradient (softplus(-2) / 10 = 0.013): R = 0 exactly is a trap.
            start_small(self.last, 0.05)

    def steps(self) -> list[Callable[[Tensor], Tensor]]:
        """The first convolution, the residual blocks and the tail: feature taps 0 to `num_block` + 1."""
        blocks: list[Callable[[Tensor], Tensor]] = list(self.blocks)
        if self.checkpointing and torch.is_grad_enabled():
            blocks = [partial(checkpoint, block, use_reentrant=False) for block in blocks]
        return [self.head, *blocks, self._tail]

    def _tail(self, out: Tensor) -> Tensor:
        return self.tail2(F.relu(_instance_norm(self.tail1(out))))

    def result(self, out: Tensor, x: Tensor) -> Tensor:
        """Make the layer of the last features and the rainy image."""
        return self.to_layer(full_precision(self.last, out), x)

    def to_layer(self, y: Tensor, x: Tensor) -> Tensor:
        """Make the layer of what the last convolution puts out (B, num_out_ch, H, W) and the rainy image."""
        if self.layer == "image":
            return (y + 1) / 2
        if self.layer == "rain":
            return y / 2
        return x - F.softplus(10 * y - 2) / 10


def convert_official_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released generator (`latest_net_{Back,Rain}.pth`) to those of `LayerGenerator()`.

    Raises:
        ValueError: If a key (`gen.0.weight` to `gen.18.bias`) or a shape is not one of the released generator's.
    """
    renamed = {"gen.0": "head", "gen.17.conv.0": "tail1", "gen.17.conv.3": "tail2", "gen.18": "last"}
    for i in range(16):
        renamed[f"gen.{i + 1}.model.0.conv"] = f"blocks.{i}.conv1"
        renamed[f"gen.{i + 1}.model.1.conv"] = f"blocks.{i}.conv2"
    expected = LayerGenerator().state_dict()
    converted = {}
    for key, value in state_dict.items():
        module, _, parameter = key.rpartition(".")
        name = f"{renamed.get(module)}.{parameter}"
        if name not in expected or not isinstance(value, Tensor) or value.shape != expected[name].shape:
            raise ValueError(f"not a released NLCL generator: unexpected entry {key!r}")
        converted[name] = value
    missing = sorted(set(expected) - set(converted))
    if missing:
        raise ValueError(f"not a released NLCL generator: {len(missing)} entries are missing, such as {missing[0]!r}")
    return converted
