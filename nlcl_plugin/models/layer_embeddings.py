"""From images to the embeddings that the contrastive losses compare: places, features there, projection heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nlcl_plugin.config.train_options import LayerPatches, UnpairedOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.ops import gather_at, nonlocal_neighbours
from nlcl_plugin.rain.batch_random import BatchRandom

Pair = tuple[list[Tensor], list[Tensor]]


class Embeddings(NamedTuple):
    """Arguments of the two contrastive losses; an empty pair where a loss is off."""

    location: Pair
    layer: Pair


class LayerEmbeddings:
    """Runs the networks once for all losses that want their features, and the projection heads once a step.

    Args:
        options: Losses and what they sample.
        nets: Networks by label (`g`, `p`).
        net_d: The discriminator, for its judgement and features; it is not trained here.
    """

    def __init__(self, options: UnpairedOptions, nets: dict[str, nn.Module], net_d: nn.Module | None) -> None:
        self.location = options.location_opt.sampling if options.location_opt else None
        self.layer = options.layer_opt.sampling if options.layer_opt else None
        self.nets = nets
        self.net_d = net_d

    @staticmethod
    def in_channels(options: UnpairedOptions, nets: dict[str, nn.Module]) -> list[int]:
        """Channels of all taps: those of location contrast, then those of layer contrast.

        Raises:
            InputError: If a network has no feature taps, or not these.
        """
        channels: list[int] = []
        for name, loss, label in (("location_opt", options.location_opt, "g"), ("layer_opt", options.layer_opt, "d")):
            if loss is None:
                continue
            net: Any = getattr(nets[label], "module", nets[label])
            if not hasattr(net, "tap_channels"):
                raise InputError(
                    f"train.{name} needs feature taps, which network_{label} of type {type(net).__name__} lacks: use "
                    f"{'LayerGenerator' if label == 'g' else 'PatchDiscriminator'} or remove the loss"
                )
            try:
                channels += net.tap_channels(loss.sampling.taps)
            except ValueError as error:
                raise InputError(f"train.{name}.sampling.taps: {error}") from error
        return channels

    def generator(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Image layers of the inputs, and their features if location contrast wants them."""
        if self.location is None:
            return self.nets["g"](inputs), []
        return self.nets["g"](inputs, taps=self.location.taps)

    def discriminator(self, image: Tensor, rain: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Judgement of B, and the features of B and R if layer contrast wants them."""
        assert self.net_d is not None
        if self.layer is None:
            return self.net_d(image), [], []
        n = image.shape[0]
        judged, features = self.net_d(torch.cat((image, rain)), taps=self.layer.taps)
        return judged[:n], [f[:n] for f in features], [f[n:] for f in features]

    def __call__(self, location: Pair | None, layer: Pair | None) -> Embeddings:
        """Project the features of both losses in one pass of the heads.

        Args:
            location: Features of queries and keys, each a list of (B, N, C).
            layer: Features of image and rain patches, each a list of (B, N, C).

        Returns:
            The embeddings.
        """
        pairs = [pair for pair in (location, layer) if pair is not None]
        if not pairs:
            return Embeddings(([], []), ([], []))
        joined = [torch.cat(both, dim=1) for pair in pairs for both in zip(*pair, strict=True)]
        projected = iter(self.nets["p"](joined))
        found: list[Pair] = []
        for first, second in pairs:
            split = [next(projected).split((a.shape[1], b.shape[1]), dim=1) for a, b in zip(first, second, strict=True)]
            found.append(([s[0] for s in split], [s[1] for s in split]))
        results = iter(found)
        empty: Pair = ([], [])
        return Embeddings(
            next(results) if location is not None else empty, next(results) if layer is not None else empty
        )


def image_places(outputs: Tensor, keys: Sequence[Tensor], embed: LayerEmbeddings, random: BatchRandom) -> Pair:
    """Features of outputs (queries) and inputs (keys) at the same random places.

    Args:
        outputs: Image layers (B, 3, H, W), or (2 B, 3, H, W) with those of clean images behind.
        keys: Features of their inputs at the taps; used without gradient.
        embed: Options and networks.
        random: Where places are drawn from.

    Returns:
        Two lists of (B, N, C).
    """
    options = embed.location
    assert options is not None
    size = (outputs.shape[-2], outputs.shape[-1])
    queries = embed.nets["g"](outputs, taps=options.taps, features_only=True)
    halves = outputs.shape[0] // len(random.rows)
    places = torch.cat([random.centres(options.num_patches, size, 1, outputs.device) for _ in range(halves)])
    return ([gather_at(q, places, size) for q in queries], [gather_at(k.detach(), places, size) for k in keys])


def layer_places(
    image: Tensor,
    rain: Tensor,
    features_image: Sequence[Tensor],
    features_rain: Sequence[Tensor],
    options: LayerPatches,
    random: BatchRandom,
) -> Pair:
    """Features of non-local neighbours within each layer, around random query patches of its own.

    Args:
        image: Image layers B (B, 3, H, W).
        rain: Rain layers R (B, C, H, W).
        features_image: Features of B at the taps.
        features_rain: Features of R at the taps.
        options: How many patches, and from where.
        random: Where query patches are drawn from.

    Returns:
        Two lists of (B × num_queries, N, C): each query is an item of its own.
    """
    size = (image.shape[-2], image.shape[-1])
    found: list[list[Tensor]] = []
    for layer, features, k in (
        (image, features_image, options.num_image_patches),
        (rain, features_rain, options.num_rain_patches),
    ):
        queries = random.centres(options.num_queries, size, options.patch_size, image.device)
        centres, _ = nonlocal_neighbours(
            # NaN has no neighbours; the loss, which it reaches by way of the features, is where it is reported.
            torch.nan_to_num(layer.detach(), posinf=0, neginf=0),
            queries,
            patch_size=options.patch_size,
            search_size=options.search_size,
            k=k,
        )
        centres = centres.flatten(1, 2)  # (B, num_queries × k, 2)
        found.append([gather_at(f, centres, size).reshape(-1, k, f.shape[1]) for f in features])
    return found[0], found[1]
