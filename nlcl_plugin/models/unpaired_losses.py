"""Stage 1: all losses on the layers of rainy images, for one part of a batch."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nlcl_plugin.config.train_options import LossOptions, UnpairedOptions
from nlcl_plugin.losses import lay_rain
from nlcl_plugin.models.composite_contrast import compare_composites
from nlcl_plugin.models.layer_embeddings import LayerEmbeddings, image_places, layer_places
from nlcl_plugin.ops import dimension_ratio, layer_dimensions
from nlcl_plugin.rain.batch_random import BatchRandom

DIMENSIONS = ("dim_image", "dim_rain", "log_dim_ratio")  # what `measure_dimensions` returns


class Layers(NamedTuple):
    """Layers of a part of a batch, without gradient."""

    image: Tensor
    rain: Tensor


class UnpairedLosses:
    """The losses of stage 1 and the networks that they train.

    Each loss is a mean over the images of a part, each image by itself (unless it gathers negatives): the mean over
    equal parts is the loss of the whole batch.

    Args:
        options: Losses and their weights.
        nets: Networks by label (`g`, `r`, `d`, `p`), as they are run: wrapped for distributed training or not.
        bare_d: The discriminator without such a wrapper: what trains the generator needs no gradients of it.
        build: Builds a loss by its framework's registry.
    """

    def __init__(
        self,
        options: UnpairedOptions,
        nets: dict[str, nn.Module],
        bare_d: nn.Module | None,
        build: Callable[[dict[str, Any]], nn.Module],
    ) -> None:
        self.options = options
        self.nets = nets
        self.bare_d = bare_d
        self.embed = LayerEmbeddings(options, nets, bare_d)

        def loss(block: LossOptions | None) -> Any:
            return build(block.build_options()) if block is not None else None

        self.cri_gan = loss(options.gan_opt)
        self.cri_location = loss(options.location_opt)
        self.cri_layer = loss(options.layer_opt)
        self.cri_consistency = loss(options.consistency_opt)
        self.cri_fidelity = loss(options.fidelity_opt)
        self.cri_identity = loss(options.identity_opt)
        self.cri_relay = loss(options.relay_opt)
        self.cri_composite = loss(options.composite_opt)

    def generators(
        self, rainy: Tensor, clean: Tensor, current_iter: int, random: BatchRandom
    ) -> tuple[Tensor, OrderedDict[str, Tensor], Layers]:
        """What the generators and heads minimise.

        Args:
            rainy: Rainy images O (B, 3, H, W), RGB in [0, 1].
            clean: Clean images C of other scenes, of the same shape.
            current_iter: The iteration, for the ramps of the weights.
            random: Where places are drawn from.

        Returns:
            The weighted sum of the losses, each loss by itself without its ramp, and the layers.
        """
        t, n = self.options, rainy.shape[0]
        losses: OrderedDict[str, Tensor] = OrderedDict()
        total = rainy.new_zeros(())

        def add(name: str, block: LossOptions, value: Tensor) -> None:
            nonlocal total
            losses[name] = value.detach()
            total = total + block.weight_at(current_iter) * value

        # One pass of the generator serves O and C, and its features of both are the keys of location contrast.
        on_clean = t.location_opt is not None and t.location_opt.sampling.on_clean
        with_clean = on_clean or t.identity_opt is not None
        inputs = torch.cat((rainy, clean)) if with_clean else rainy
        outputs, keys = self.embed.generator(inputs)
        image = outputs[:n]
        rain = self.nets["r"](rainy).expand_as(rainy) if "r" in self.nets else rainy - image  # it may be grey

        features_b: list[Tensor] = []
        features_r: list[Tensor] = []
        if t.gan_opt is not None:
            judged, features_b, features_r = self.embed.discriminator(image, rain)
            add("l_g_gan", t.gan_opt, self.cri_gan(_full(judged), True))
        compared = len(inputs) if on_clean else n
        embeddings = self.embed(
            location=image_places(outputs[:compared], [k[:compared] for k in keys], self.embed, random)
            if t.location_opt
            else None,
            layer=layer_places(image, rain, features_b, features_r, t.layer_opt.sampling, random)
            if t.layer_opt
            else None,
        )
        if t.location_opt is not None:
            add("l_location", t.location_opt, self.cri_location(*embeddings.location))
        if t.layer_opt is not None:
            value = self.cri_layer(*embeddings.layer)
            add("l_layer", t.layer_opt, value)
            losses["l_layer_above_floor"] = value.detach() - self.cri_layer.floor(*embeddings.layer)
        if t.consistency_opt is not None:
            add("l_consistency", t.consistency_opt, self.cri_consistency(image + rain, rainy))
        if t.fidelity_opt is not None:
            add("l_fidelity", t.fidelity_opt, self.cri_fidelity(image, rainy))
        if t.identity_opt is not None:
            add("l_identity", t.identity_opt, self.cri_identity(outputs[n:], clean))
        if t.relay_opt is not None or t.composite_opt is not None:
            composite = lay_rain(clean, rain.detach().clamp_min(0))
            derained = self.nets["g"](composite)
            if t.relay_opt is not None:
                add("l_relay", t.relay_opt, self.cri_relay(derained, clean))
            if t.composite_opt is not None:
                patches = compare_composites(derained, composite, clean, t.composite_opt.sampling, random)
                add("l_composite", t.composite_opt, self.cri_composite(*patches))
        if t.dimension_freq and current_iter % t.dimension_freq == 0:
            losses.update(measure_dimensions(image.detach(), rain.detach(), random))
        return total, losses, Layers(image.detach(), rain.detach())

    def discriminator(self, image: Tensor, clean: Tensor) -> Tensor:
        """What the discriminator minimises: clean photographs are real, image layers (without gradient) are not."""
        real, fake = _full(self.nets["d"](torch.cat((clean, image)))).chunk(2)
        return 0.5 * (self.cri_gan(real, True, is_disc=True) + self.cri_gan(fake, False, is_disc=True))


def measure_dimensions(image: Tensor, rain: Tensor, random: BatchRandom) -> dict[str, Tensor]:
    """Measure the intrinsic dimensions of the layers, each image by itself; means over the images, by `DIMENSIONS`.

    Dimensions of a layer without texture count as 0, and so does the logarithm of a ratio that is unknown.
    """
    seeds = random.each(lambda n: torch.randint(2**62, (n,), generator=random.generator), torch.device("cpu"))
    found = []
    for b, r, seed in zip(image.float().split(1), rain.float().split(1), seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        dimensions = layer_dimensions(torch.nan_to_num(b), torch.nan_to_num(r), generator=generator)
        known = [d if math.isfinite(d) else 0.0 for d in dimensions]
        found.append([*known, math.log(dimension_ratio(*dimensions))])
    means = torch.tensor(found, device=image.device).mean(dim=0)
    return dict(zip(DIMENSIONS, means.unbind(), strict=True))


def _full(x: Tensor) -> Tensor:
    """At least single precision, for the losses."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
