"""Tools that are built on spandrel (https://github.com/chaiNNer-org/spandrel) load our networks after `install()`.

    import spandrel
    import nlcl_plugin.spandrel_support

    nlcl_plugin.spandrel_support.install()
    model = spandrel.ModelLoader().load_from_file("net_s_latest.pth")
    derained = model(rainy)  # (1, 3, H, W), RGB in [0, 1], clipped

Spandrel itself is an extra: pip install 'nlcl_plugin[spandrel]'.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import spandrel
from torch import Tensor, nn

from nlcl_plugin.archs import LayerGenerator, ResidualUNet, SimpleGateUNet, convert_official_state_dict
from nlcl_plugin.networks.network_file import released_layer

_Arguments = dict[str, Any]


class _Arch(spandrel.Architecture[nn.Module]):
    """One of our networks, whose arguments are told by the shapes of its weights."""

    def __init__(
        self,
        network: Callable[..., nn.Module],
        arguments: Callable[[dict[str, Tensor]], _Arguments],
        keys: tuple[str, ...],
        tiling: spandrel.ModelTiling,
    ) -> None:
        self.network, self.arguments, self.tiling = network, arguments, tiling
        name = network.__name__
        super().__init__(id=f"nlcl_{name}", name=name, detect=lambda weights: all(key in weights for key in keys))

    def load(self, state_dict: dict[str, Any]) -> spandrel.ImageModelDescriptor[nn.Module]:
        arguments = self.arguments(state_dict)
        net = self.network(**arguments).eval()
        channels = arguments["num_in_ch"]
        return spandrel.ImageModelDescriptor(
            net,
            state_dict,
            architecture=self,
            purpose="Restoration",
            tags=[f"{arguments['num_feat']}nf", *([arguments["layer"]] if "layer" in arguments else [])],
            # Measured on four photographs with the released generators: off by at most 2.1 of 255 steps in half
            # precision (0.05 on average), but by 11 in bfloat16 (0.5); with the demo's ResidualUNet by 0.6 and 3.7. Of
            # a trained SimpleGateUNet there are no figures.
            supports_half=True,
            supports_bfloat16=self.network is not LayerGenerator,
            scale=1,
            input_channels=channels,
            output_channels=channels,
            size_requirements=spandrel.SizeRequirements(),  # any size, as it pads inside
            tiling=self.tiling,
            call_fn=_remaining if arguments.get("layer") == "rain" else None,
        )


class _LayerGeneratorArch(_Arch):
    """`LayerGenerator`, also of released weights as they come."""

    def __init__(self) -> None:
        keys = ("head.weight", "blocks.0.conv1.weight", "tail1.weight", "tail2.weight", "last.weight")
        # Instance norm takes the whole image: a tile of it comes out otherwise.
        super().__init__(LayerGenerator, _layer_generator, keys, spandrel.ModelTiling.INTERNAL)

    def detect(self, state_dict: dict[str, Any]) -> bool:
        return super().detect(state_dict) or {"gen.0.weight", "gen.17.conv.0.weight"} <= set(state_dict)

    def load(self, state_dict: dict[str, Any]) -> spandrel.ImageModelDescriptor[nn.Module]:
        released = "gen.0.weight" in state_dict
        return super().load(convert_official_state_dict(state_dict) if released else state_dict)


def _remaining(net: nn.Module, rainy: Tensor) -> Tensor:
    remaining: Tensor = rainy - net(rainy)
    return remaining


def _layer_generator(weights: dict[str, Tensor]) -> _Arguments:
    num_feat, num_in_ch = weights["head.weight"].shape[:2]
    num_out_ch = weights["last.weight"].shape[0]
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": num_out_ch,
        "num_feat": num_feat,
        "num_block": _count(weights, r"blocks\.(\d+)\."),
        "layer": _layer(weights, num_in_ch, num_out_ch),
    }


def _layer(weights: dict[str, Tensor], num_in_ch: int, num_out_ch: int) -> str:
    """Which layer a generator makes, which its weights alone do not show."""
    about = getattr(weights, "_metadata", {}).get("", {}).get("about")
    layer = about["network"].get("layer", "image") if about else released_layer(weights)
    if layer is None and num_out_ch == 1 < num_in_ch:
        layer = "residual"  # no other one makes a grey layer of a colour image
    if layer is None:
        raise spandrel.UnsupportedModelError(
            "this LayerGenerator does not say which layer it makes: give the .pth of its training, saved by "
            "nlcl_plugin 0.1 or later, instead of a .safetensors or older file"
        )
    return str(layer)


def _residual_unet(weights: dict[str, Tensor]) -> _Arguments:
    num_feat, num_in_ch = weights["head.weight"].shape[:2]
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": weights["last.weight"].shape[0],
        "num_feat": num_feat,
        "num_block": _count(weights, r"middle\.(\d+)\."),
    }


def _simple_gate_unet(weights: dict[str, Tensor]) -> _Arguments:
    num_feat, num_in_ch = weights["head.weight"].shape[:2]
    levels = range(_count(weights, r"downs\.(\d+)\."))
    return {
        "num_in_ch": num_in_ch,
        "num_out_ch": weights["last.weight"].shape[0],
        "num_feat": num_feat,
        "enc_blocks": [_count(weights, rf"encoders\.{level}\.(\d+)\.") for level in levels],
        "middle_blocks": _count(weights, r"middle\.(\d+)\."),
        "dec_blocks": [_count(weights, rf"decoders\.{level}\.(\d+)\.") for level in levels],
    }


def _count(weights: dict[str, Tensor], pattern: str) -> int:
    """How many modules of a list have weights."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


ARCHITECTURES: tuple[_Arch, ...] = (
    _LayerGeneratorArch(),
    _Arch(
        ResidualUNet,
        _residual_unet,
        ("head.weight", "enc1.conv1.weight", "down2.weight", "up2.weight", "dec1.conv2.weight", "last.weight"),
        spandrel.ModelTiling.SUPPORTED,
    ),
    _Arch(
        SimpleGateUNet,
        _simple_gate_unet,
        ("head.weight", "downs.0.weight", "ups.0.0.weight", "last.weight"),
        spandrel.ModelTiling.DISCOURAGED,  # its channel attention takes the mean of the whole image
    ),
)


def install(registry: spandrel.ArchRegistry = spandrel.MAIN_REGISTRY) -> None:
    """Let spandrel know our networks; doing it again changes nothing.

    Args:
        registry: Where; by default the one that every `spandrel.ModelLoader` looks into.
    """
    registry.add(*map(spandrel.ArchSupport.from_architecture, ARCHITECTURES), ignore_duplicates=True)
