"""The generator that estimates one layer of a rainy image.

The network is the one of the released NLCL code (Ye et al., "Unsupervised Deraining: Where Contrastive Learning Meets
Self-similarity", CVPR 2022, arXiv 2203.11509), so that its weights load after `basicsr convert`.
The `residual` output is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nlcl_plugin.archs.precision import full_precision

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
    return F.instance_norm(x) if x.shape[-1] * x.shape[-2] > 1 else x * 0


class LayerGenerator(nn.Module):
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
        self.checkpointing = checkpointing
        self.head = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.blocks = nn.ModuleList(_ResidualBlock(num_feat) for _ in range(num_block))
        self.tail1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.tail2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        if layer == "residual":
            # R starts small but with a gradient (softplus(-2) / 10 = 0.013): R = 0 exactly is a trap.
            with torch.no_grad():
                self.last.weight.mul_(0.05)
                self.last.bias.zero_()  # type: ignore[union-attr]

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """Channels of the given feature taps.

        Args:
            taps: 0 is the first convolution, i the output of residual block i, `num_block` + 1 the tail.

        Returns:
            One channel count per tap.

        Raises:
            ValueError: If a tap does not exist.
        """
        self._check_taps(taps)
        return [self.num_feat] * len(taps)

    def forward(
        self, x: Tensor, taps: Sequence[int] | None = None, features_only: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Estimate the layer.

        Args:
            x: Rainy image (B, num_in_ch, H, W), RGB in [0, 1].
            taps: Also return the features at these taps (see `tap_channels`), in the given order.
            features_only: Return only the features and stop at the deepest tap.

        Returns:
            The layer; with `taps` a pair (layer, features); with `features_only` the features.
        """
        wanted = tuple(taps or ())
        self._check_taps(wanted)
        deepest = max(wanted, default=-1) if features_only else self.num_block + 1
        found: dict[int, Tensor] = {}
        out = self.head(2 * x - 1)
        for index in range(self.num_block + 2):
            if index > deepest:
                break
            if 1 <= index <= self.num_block:
                block = self.blocks[index - 1]
                again = self.checkpointing and torch.is_grad_enabled()
                out = checkpoint(block, out, use_reentrant=False) if again else block(out)
            elif index == self.num_block + 1:
                out = self.tail2(F.relu(_instance_norm(self.tail1(out))))
            if index in wanted:
                found[index] = out
        features = [found[tap] for tap in wanted]
        if features_only:
            return features
        layer = self.to_layer(full_precision(self.last, out), x)
        return layer if taps is None else (layer, features)

    def to_layer(self, y: Tensor, x: Tensor) -> Tensor:
        """Make the layer of what the last convolution puts out.

        Args:
            y: Its output (B, num_out_ch, H, W).
            x: The rainy image, as given to `forward`.

        Returns:
            The layer.
        """
        if self.layer == "image":
            return (y + 1) / 2
        if self.layer == "rain":
            return y / 2
        return x - F.softplus(10 * y - 2) / 10

    def _check_taps(self, taps: Sequence[int]) -> None:
        wrong = [tap for tap in taps if not 0 <= tap <= self.num_block + 1]
        if wrong:
            raise ValueError(f"generator taps must be in [0, {self.num_block + 1}], but received {wrong}")


def convert_official_state_dict(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a released generator (`latest_net_{Back,Rain}.pth`) to those of `LayerGenerator()`.

    Args:
        state_dict: The released state dict, keys `gen.0.weight` to `gen.18.bias`.

    Returns:
        The state dict of `LayerGenerator()`; the image network wants `layer="image"`, the rain network
        `layer="rain"`.

    Raises:
        ValueError: If a key or a shape is not one of the released generator's.
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
            kind = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise ValueError(
                f"not a released NLCL generator: unexpected entry {key!r} of {kind}; "
                "expected latest_net_Back.pth or latest_net_Rain.pth"
            )
        converted[name] = value
    missing = sorted(set(expected) - set(converted))
    if missing:
        raise ValueError(f"not a released NLCL generator: {len(missing)} entries are missing, such as {missing[0]!r}")
    return converted
