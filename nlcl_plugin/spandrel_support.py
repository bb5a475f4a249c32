"""Tools built on spandrel (https://github.com/chaiNNer-org/spandrel) load our networks after `install()`.

    import spandrel
    import nlcl_plugin.spandrel_support

    nlcl_plugin.spandrel_support.install()
    model = spandrel.ModelLoader().load_from_file("net_s_latest.pth")
    derained = model(rainy)  # (1, 3, H, W), RGB in [0, 1], clipped

Spandrel itself is an extra: pip install 'nlcl_plugin[spandrel]'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import spandrel
from spandrel.util import get_seq_len
from torch import Tensor, nn

from nlcl_plugin.archs import ContextUNet, LayerGenerator, ResidualUNet, SimpleGateUNet, convert_official_state_dict
from nlcl_plugin.networks.network_file import released_layer

_RELEASED_KEYS = {"gen.0.weight", "gen.17.conv.0.weight"}  # of released weights in their original form


class _Arch(spandrel.Architecture[nn.Module]):
    """One of our networks, which is recognized by names of its weights (`keys`).

    Its arguments follow from the weights' shapes; `arguments` returns those besides `num_in_ch`, `num_out_ch` and
    `num_feat`.
    """

    def __init__(
        self,
        network: Callable[..., nn.Module],
        keys: set[str],
        tiling: spandrel.ModelTiling,
        arguments: Callable[[dict[str, Tensor]], dict[str, Any]],
    ) -> None:
        self.network, self.keys, self.tiling, self.arguments = network, keys, tiling, arguments
        super().__init__(id=f"nlcl_{network.__name__}", name=network.__name__, detect=self._detect)

    def _detect(self, weights: dict[str, Any]) -> bool:
        if self.network is ResidualUNet and "film.weight" in weights:
            return False  # a ContextUNet has its layers, and more
        return self.keys <= set(weights) or (self.network is LayerGenerator and set(weights) >= _RELEASED_KEYS)

    def load(self, state_dict: dict[str, Any]) -> spandrel.ImageModelDescriptor[nn.Module]:
        weights = convert_official_state_dict(state_dict) if "gen.0.weight" in state_dict else state_dict
        num_feat, num_in_ch = weights["head.weight"].shape[:2]
        more = self.arguments(weights)
        num_out_ch = weights["last.weight"].shape[0]
        net = self.network(num_in_ch=num_in_ch, num_out_ch=num_out_ch, num_feat=num_feat, **more).eval()
        return spandrel.ImageModelDescriptor(
            net,
            weights,
            architecture=self,
            purpose="Restoration",
            tags=[f"{num_feat}nf", *([more["layer"]] if "layer" in more else [])],
            # Measured on four photographs with the released generators: off by at most 2.1 of 255 steps in half
            # precision (0.05 on average), but by 11 in bfloat16 (0.5); with the demo's ResidualUNet by 0.6 and 3.7. Of
            # a trained SimpleGateUNet there are no figures.
            supports_half=True,
            supports_bfloat16=self.network is not LayerGenerator,
            scale=1,
            input_channels=num_in_ch,
            output_channels=num_in_ch,
            size_requirements=spandrel.SizeRequirements(),  # any size, as it pads inside
            tiling=self.tiling,
            call_fn=(lambda net, rainy: rainy - net(rainy)) if more.get("layer") == "rain" else None,
        )


def _layer(weights: dict[str, Tensor]) -> str:
    """Which layer a generator makes, which its weights alone do not show."""
    about = getattr(weights, "_metadata", {}).get("", {}).get("about")
    layer = about["network"].get("layer", "image") if about else released_layer(weights)
    if layer is None and weights["last.weight"].shape[0] == 1 < weights["head.weight"].shape[1]:
        layer = "residual"  # no other one makes a grey layer of a colour image
    if layer is None:
        raise spandrel.UnsupportedModelError(
            "this LayerGenerator does not say which layer it makes: give the .pth of its training, saved by "
            "nlcl_plugin 0.1 or later, instead of a .safetensors or older file"
        )
    return str(layer)


def _simple_gate_unet(weights: dict[str, Tensor]) -> dict[str, Any]:
    levels = range(get_seq_len(weights, "downs"))
    return {
        "enc_blocks": [get_seq_len(weights, f"encoders.{level}") for level in levels],
        "middle_blocks": get_seq_len(weights, "middle"),
        "dec_blocks": [get_seq_len(weights, f"decoders.{level}") for level in levels],
    }


ARCHITECTURES: tuple[_Arch, ...] = (
    _Arch(
        LayerGenerator,
        {"head.weight", "blocks.0.conv1.weight", "tail1.weight", "tail2.weight", "last.weight"},
        spandrel.ModelTiling.INTERNAL,  # its instance norm takes the whole image: a tile's result would differ
        lambda weights: {"num_block": get_seq_len(weights, "blocks"), "layer": _layer(weights)},
    ),
    _Arch(
        ResidualUNet,
        {"head.weight", "enc1.conv1.weight", "down2.weight", "up2.weight", "dec1.conv2.weight", "last.weight"},
        spandrel.ModelTiling.SUPPORTED,
        lambda weights: {"num_block": get_seq_len(weights, "middle")},
    ),
    _Arch(
        ContextUNet,
        {"head.weight", "enc1.conv1.weight", "down2.weight", "stat.weight", "film.weight", "last.weight"},
        spandrel.ModelTiling.INTERNAL,  # it takes statistics of the whole image
        lambda weights: {
            "num_block": get_seq_len(weights, "middle"),
            "num_late": get_seq_len(weights, "late"),
            "num_stat": len(weights["stat.weight"]),
        },
    ),
    _Arch(
        SimpleGateUNet,
        {"head.weight", "downs.0.weight", "ups.0.0.weight", "last.weight"},
        spandrel.ModelTiling.DISCOURAGED,  # its channel attention takes the mean of the whole image
        _simple_gate_unet,
    ),
)


def install(registry: spandrel.ArchRegistry = spandrel.MAIN_REGISTRY) -> None:
    """Add our networks to spandrel; a second call changes nothing."""
    registry.add(*map(spandrel.ArchSupport.from_architecture, ARCHITECTURES), ignore_duplicates=True)
