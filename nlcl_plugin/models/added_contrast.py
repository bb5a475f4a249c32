"""Layer contrast, and location contrast if asked for, of any network's input and output."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from basicsr.losses import build_loss
from torch import Tensor, nn

from nlcl_plugin.config.addon_options import AddonOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.layer_embeddings import layer_places
from nlcl_plugin.models.module_features import ModuleFeatures
from nlcl_plugin.ops import gather_at
from nlcl_plugin.rain.batch_random import BatchRandom


class AddedContrast:
    """The losses of a block `nlcl_opt` on an output B and what its input has beyond it, R = input - B.

    The input is resized to the size of the output (bicubic), where the layers are compared.

    Args:
        options: The block.
        features: Gives one (B, C, h, w) a tap for images: `ModuleFeatures`, or an encoder that is trained.
        device: Where the networks are.
    """

    def __init__(self, options: AddonOptions, features: ModuleFeatures | nn.Module, device: torch.device) -> None:
        self.options = options
        self.features = features
        self.cri_layer: Any = build_loss(options.layer_opt.build_options()).to(device)
        location = options.location_opt
        self.cri_location: Any = build_loss(location.build_options()).to(device) if location else None

    @contextmanager
    def still(self) -> Iterator[None]:
        """Within it, a network that is only judged by takes no gradients and keeps its state."""
        if isinstance(self.features, ModuleFeatures):
            with self.features.still():
                yield
        else:
            yield

    def channels(self, images: Tensor) -> list[int]:
        """Channels of each tap, found out with a pass."""
        with torch.no_grad(), self.still():
            return [feature.shape[1] for feature in self.features(images)]

    def __call__(
        self, heads: nn.Module, output: Tensor, inputs: Tensor, random: BatchRandom
    ) -> tuple[Tensor, OrderedDict[str, Tensor]]:
        """Compare the layers; call it, and its backward pass, within `still`.

        Args:
            heads: Projection heads, two a tap with location contrast (its own first), else one.
            output: The image layer B (B, C, H, W), RGB in [0, 1].
            inputs: What it was made from (B, C, h, w).
            random: Where places are drawn from.

        Returns:
            The sum of the losses, and each by itself without gradient, as it is logged.

        Raises:
            InputError: If input and output are no images of the same channels.
        """
        image, rain, full = output, *self._layers(output, inputs)
        n, size = image.shape[0], (image.shape[-2], image.shape[-1])
        location = self.options.location_opt
        parts = [image, rain, full] if location else [image, rain]
        maps = [feature.split(n) for feature in self.features(torch.cat(parts))]
        vectors: list[tuple[Tensor, Tensor]] = []
        if location:
            places = random.centres(location.sampling.num_patches, size, 1, image.device)
            vectors += [(gather_at(m[0], places, size), gather_at(m[2], places, size)) for m in maps]
        sampling = self.options.layer_opt.sampling
        vectors += zip(
            *layer_places(image, rain, [m[0] for m in maps], [m[1] for m in maps], sampling, random), strict=True
        )
        # One pass of the heads, as a second one would confuse DistributedDataParallel.
        projected = heads([torch.cat(pair, dim=1) for pair in vectors])
        pairs = [z.split([a.shape[1], b.shape[1]], dim=1) for z, (a, b) in zip(projected, vectors, strict=True)]
        losses: OrderedDict[str, Tensor] = OrderedDict()
        layer = [list(side) for side in zip(*pairs[-len(maps) :], strict=True)]
        total = self.cri_layer(*layer)
        losses["l_nlcl"] = total.detach()
        losses["l_nlcl_above_floor"] = total.detach() - self.cri_layer.floor(*layer)
        if location:
            value = self.cri_location(*(list(side) for side in zip(*pairs[: len(maps)], strict=True)))
            losses["l_nlcl_location"] = value.detach()
            total = total + value
        return total, losses

    def _layers(self, output: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The rain layer, and the input at the size of the output."""
        if output.dim() != 4 or inputs.dim() != 4 or output.shape[:2] != inputs.shape[:2]:
            raise InputError(
                f"train.nlcl_opt: compares images (B, C, H, W) of net_g's input and output, but received "
                f"{tuple(inputs.shape)} and {tuple(output.shape)}; use a network of as many channels out as in"
            )
        full = inputs.detach()
        if full.shape != output.shape:
            full = F.interpolate(full, size=output.shape[-2:], mode="bicubic", align_corners=False)
        return full - output, full
