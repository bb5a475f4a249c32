"""What a network file says about itself: `about`, plain values beside the weights. Needs no BasicSR and no MMEngine."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

from nlcl_plugin.config.option_files import plain
from nlcl_plugin.version import __version__

FORMAT = 1
KEY = "nlcl_plugin"  # in a .safetensors file's metadata, in an MMEngine checkpoint, in ONNX files
LICENSE = "code Apache-2.0; weights as the images they were trained on allow"
KINDS = {"d": "a discriminator", "p": "projection heads", "e": "an encoder"}  # labels of networks that derain nothing


def describe(
    block: Mapping[str, Any], label: str, *, net: nn.Module | None = None, iteration: int | None = None
) -> dict[str, Any]:
    """Describe a network as plain values.

    Args:
        block: Its options: `type` and arguments.
        label: What it is in a training: g or s (image layer), r (rain), d (discriminator), p (heads), e (encoder).
        net: The network itself, to note also the arguments that the block leaves out.
        iteration: Of its training.

    Returns:
        `format`; `network` (the block); `label`; `output` (`image`, `rain`, or None for neither); `window_size` (sizes
        it takes are multiples of it); `values` (in and out); `iter`; `license`; `nlcl_plugin` (version). A file may
        also have `longest_side`, `strength`, `adaptive` and `keep_colours` (see `inference.derainer.Derainer`).
    """
    network = plain({**block, **_left_out(block, net)})
    return {
        "format": FORMAT,
        "network": network,
        "label": label,
        "output": None if label in KINDS else "rain" if label == "r" else "image",
        "window_size": network["window_size"] if isinstance(network.get("window_size"), int) else 1,
        "values": "RGB in [0, 1]",
        "iter": iteration,
        "license": LICENSE,
        "nlcl_plugin": __version__,
    }


def _left_out(block: Mapping[str, Any], net: nn.Module | None) -> dict[str, Any]:
    """Arguments of a network that its block leaves out: their defaults, or what the model filled in."""
    if net is None:
        return {}
    values = {
        name: getattr(net, name, parameter.default) if parameter.default is parameter.empty else parameter.default
        for name, parameter in inspect.signature(type(net).__init__).parameters.items()
        if name not in {"self", *block} and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    return {name: value for name, value in values.items() if _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)


def as_metadata(about: Mapping[str, Any]) -> dict[str, str]:
    """Turn `about` into metadata of a .safetensors file, which are texts."""
    return {KEY: json.dumps(about)}
