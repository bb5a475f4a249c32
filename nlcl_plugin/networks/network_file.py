"""Network files, which say what they contain (`about`): read without running code, and built.

A `.pth` has it under the key `about`, beside `params` and `params_ema`; a `.safetensors` as JSON in its metadata, under
`nlcl_plugin`; a checkpoint of MMEngine (`mm.checkpoints`) one per network, under `nlcl_plugin`. Readers that know
nothing of it, such as stock BasicSR, load the weights as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from pydantic import BaseModel, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor, nn

from nlcl_plugin.archs import LayerGenerator, convert_official_state_dict
from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.about import FORMAT, KEY, describe
from nlcl_plugin.networks.weights import load_plain, weights_key, weights_of

OFFICIAL_LICENSE = "not stated by its authors; see https://github.com/yunguo224/NLCL"
_RELEASED = {  # SHA-256 of the last bias
    "f0c73d622c2860769ae86bad9024da92c401345214b44ab38d813c7121cc07ec": "image",
    "00b4bfbf287b9bd232519c2365fac94c837b9d447365d7f654bab7bfa28c8020": "rain",
}
_OPENS_FILES = {"VGGFeatureExtractor", "DFDNet"}  # BasicSR's networks that load files while they are built


class _Network(BaseModel, strict=True):
    type: str


class _About(BaseModel, strict=True):
    """The entries of `about` that must be right."""

    format: int
    network: _Network
    label: str
    output: Literal["image", "rain"] | None = None
    window_size: PositiveInt
    license: str
    longest_side: NonNegativeInt = 0
    strength: float = 1.0
    adaptive: bool = False
    keep_colours: bool = False


@dataclass(frozen=True)
class NetworkFile:
    """What a network file contains."""

    path: Path  # the file
    about: dict[str, Any]  # what it is; see `describe`
    weights: dict[str, Tensor]  # the weights to infer with, that is the average where there is one


def read_network_file(
    path: str | os.PathLike[str], *, label: str | None = None, order: tuple[str, ...] = ("s", "g")
) -> NetworkFile:
    """Read a network file without running code from it.

    It may be one of ours; a checkpoint of `mm.checkpoints.WholeCheckpointHook`, of which one network is taken; or
    released NLCL weights, in their original form or converted. Those that were trained further make the rain layer if
    the file's name contains `rain` or begins with `net_r`.

    Args:
        path: A `.pth` or `.safetensors` file.
        label: The network it must be, such as `g`; whatever it says by default.
        order: Without a label: which of several to take, the first one that is there and was trained.

    Returns:
        Its weights, and what it is.

    Raises:
        InputError: If it is missing, damaged, no network, of an unknown kind, or not `label`.
    """
    path = Path(path)
    content = load_plain(path)
    if path.suffix == ".safetensors":
        weights = weights_of(content, path)
        with safetensors.safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
        about = None if text is None else about_from_json(text, path)
    elif isinstance(content, dict) and "state_dict" in content:
        about, weights = _of_mmengine(content, path, (label,) if label else order)
    else:
        about = content.get("about") if weights_key(content) else None
        weights = weights_of(content, path)
    if not weights:
        raise InputError(f"{path}: contains no weights; give a network file (net_*.pth, net_*.safetensors)")
    if about is None and any(name.startswith("gen.") for name in weights):
        try:
            weights = convert_official_state_dict(weights)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    checked = _checked(about, path) if about is not None else _guessed(path, weights, label)
    if label is not None and checked["label"] != label:
        raise InputError(f"{path}: is net_{checked['label']}, but net_{label} is needed; give another file")
    return NetworkFile(path, checked, weights)


def _of_mmengine(content: dict[str, Any], path: Path, order: tuple[str, ...]) -> tuple[Any, dict[str, Tensor]]:
    """One of the networks of a checkpoint of `mm.checkpoints`, by what their weights' names begin with."""
    networks = content.get(KEY)
    if not isinstance(networks, dict):
        raise InputError(
            f"{path}: does not say which networks it contains; give a checkpoint that WholeCheckpointHook saved (with "
            "options/mmengine), or a network file"
        )
    found = {_checked(about, path)["label"]: (about, f"{name}.") for name, about in networks.items()}
    chosen = next((label for label in order if label in found), None)
    if chosen is None:
        there = ", ".join(f"net_{label}" for label in found)
        raise InputError(f"{path}: contains no trained net_{' or net_'.join(order)}, but {there}; give another file")
    about, prefix = found[chosen]
    weights = weights_of(content, path, "state_dict")
    return about, {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def about_from_json(text: str, path: Path) -> dict[str, Any]:
    """Read `about` from what `as_metadata` wrote; `path` is the file that contains it, for messages.

    Raises:
        InputError: If it is not whole.
    """
    try:
        return _checked(json.loads(text), path)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: its metadata is not JSON ({error}); save it again") from error


def _checked(about: Any, path: Path) -> dict[str, Any]:
    """See that `about` is ours and whole, and asks for no other file."""
    if isinstance(about, dict) and isinstance(about.get("format"), int) and about["format"] > FORMAT:
        raise InputError(
            f"{path}: is of format {about['format']}, but this version reads up to {FORMAT}; upgrade nlcl_plugin"
        )
    try:
        _About.model_validate(about)
    except ValidationError as error:
        raise InputError(f"{path}: its entry `about` is damaged: its network is unknown; save it again") from error
    network = about["network"]
    if network["type"] in _OPENS_FILES or any("path" in str(key) and isinstance(network[key], str) for key in network):
        raise InputError(f"{path}: its network {network['type']} opens other files, which a network file may not do")
    return {"iter": None, **about}


def _guessed(path: Path, weights: dict[str, Tensor], label: str | None) -> dict[str, Any]:
    """What a file is that does not say so: released weights, or those trained further."""
    layer = released_layer(weights)
    if layer is None and _shapes(weights) == _shapes(LayerGenerator().state_dict()):
        rain = label == "r" or (label is None and ("rain" in path.name.lower() or path.name.startswith("net_r")))
        layer = "rain" if rain else "image"
    if layer is not None:
        return official_about(layer)
    raise InputError(f"{path}: does not say which network it is of; give a file that nlcl_plugin saved")


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def released_layer(weights: Mapping[str, Tensor]) -> str | None:
    """The layer of the released NLCL generator that converted weights are of: `image`, `rain`, or None for neither."""
    bias = weights.get("last.bias")
    if bias is None or bias.dtype != torch.float32:
        return None
    return _RELEASED.get(hashlib.sha256(bias.detach().cpu().numpy().tobytes()).hexdigest())


def official_about(layer: str) -> dict[str, Any]:
    """Describe, as `describe` does, the released NLCL generator of a layer: `image` or `rain`."""
    about = describe({"type": "LayerGenerator", "layer": layer}, "r" if layer == "rain" else "g", net=LayerGenerator())
    return {**about, "license": OFFICIAL_LICENSE}


def build_with_weights(
    block: Mapping[str, Any], weights: dict[str, Tensor], *, where: str, source: str | os.PathLike[str]
) -> nn.Module:
    """Build a network of its options (`type` and arguments) and its state dict, to infer with, on the CPU.

    Messages name the block by `where`, and the origin of the weights by `source`.

    Raises:
        InputError: If it cannot be built, or the weights are not its own.
    """
    from basicsr.archs import build_network
    from basicsr.utils.registry import ARCH_REGISTRY

    if not {block["type"], f"{block['type']}_basicsr"} & set(ARCH_REGISTRY.keys()):
        raise InputError(
            f"{where}: no architecture is named {block['type']!r}; give --import MODULE, the module of yours that "
            "registers it, or in Python import it first"
        )
    try:
        net: nn.Module = build_network(deepcopy(dict(block)))
    except Exception as error:  # an architecture may raise anything on arguments that it was not made for
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{where}: cannot be built ({reason}); correct its arguments") from error
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: does not fit {where} ({reason}); give its own") from error
    return net.eval().requires_grad_(False)


def experiment_options(experiment: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Read the options in the folder of a training, such as `experiments/NAME`; returns the folder, and the options."""
    folder = Path(os.path.expanduser(experiment))
    if not (folder / "options.yml").is_file():
        raise InputError(f"{folder}: has no options.yml; expected the folder of a training, such as experiments/NAME")
    return folder, load_yaml(str(folder / "options.yml"))
