"""A network file says by itself what it is: `about`, written beside the weights and read back.

A `.pth` holds it under the key `about`, beside `params` and `params_ema`; a `.safetensors` as JSON in its metadata,
under `nlcl_plugin`; a checkpoint of MMEngine (`mm.checkpoints`) one for each network, under `nlcl_plugin`. Readers that
know nothing of it, such as stock BasicSR, load the weights as ever.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import safetensors
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from nlcl_plugin.archs import LayerGenerator, convert_official_state_dict
from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.about import FORMAT, KEY, describe, is_plain
from nlcl_plugin.networks.safe_load import load_plain, weights_key, weights_of

_LARGEST = 10_000  # values in what a file says of itself
OFFICIAL_LICENSE = "not stated by its authors; see https://github.com/yunguo224/NLCL"
_RELEASED = {  # SHA-256 of the last bias
    "f0c73d622c2860769ae86bad9024da92c401345214b44ab38d813c7121cc07ec": "image",
    "00b4bfbf287b9bd232519c2365fac94c837b9d447365d7f654bab7bfa28c8020": "rain",
}
OPENS_FILES = {"VGGFeatureExtractor", "DFDNet"}  # BasicSR's networks that load files while they are built
_NAME = re.compile(r"net_(?P<label>[a-z])(?:_.*)?")


class _About(BaseModel):
    """What `about` holds; see `describe`."""

    model_config = ConfigDict(strict=True)

    format: Literal[1]
    network: dict[str, Any]
    label: str
    output: Literal["image", "rain"] | None
    window_size: int = Field(ge=1, le=512)
    values: Literal["RGB in [0, 1]"]
    iter: int | None
    license: str
    nlcl_plugin: str | None


@dataclass(frozen=True)
class NetworkFile:
    """What a network file holds.

    Attributes:
        path: The file.
        about: What it is; see `describe`.
        weights: The weights to infer with, that is the average where there is one.
    """

    path: Path
    about: dict[str, Any]
    weights: dict[str, Tensor]


def read_network_file(
    path: str | os.PathLike[str], *, label: str | None = None, order: tuple[str, ...] = ("s", "g")
) -> NetworkFile:
    """Read a network file without running code from it.

    It may be one of ours; a checkpoint that `mm.checkpoints.WholeCheckpointHook` saved, of which one network is
    taken; an older one of ours or any of BasicSR in the `models` folder of its training, whose
    `options.yml` then says what it is; or released NLCL weights, as they come or converted. If those were trained
    further, it is the rain layer that they make if the file's name has `rain` in it or begins with `net_r`.

    Args:
        path: A `.pth` or `.safetensors` file.
        label: The network it must be, such as `g`; whatever it says by default.
        order: Without a label: which of several to take, the first one that is there and was trained.

    Returns:
        Its weights, and what it is.

    Raises:
        InputError: If it is missing, torn, no network, of an unknown kind, or not `label`.
    """
    path = Path(path)
    content = load_plain(path)
    if path.suffix == ".safetensors":
        about, weights = _noted(path), weights_of(content, path)
    elif isinstance(content, dict) and "state_dict" in content:
        about, weights = _of_mmengine(content, path, (label,) if label else order)
    else:
        about = content.get("about") if weights_key(content) else None
        weights = weights_of(content, path)
    if not weights:
        raise InputError(f"{path}: holds no weights; give a network file (net_*.pth, net_*.safetensors)")
    if about is None and any(name.startswith("gen.") for name in weights):
        try:
            weights = convert_official_state_dict(weights)
        except ValueError as error:
            raise InputError(f"{path}: {error}") from error
    checked = _checked(about, path) if about is not None else _guessed(path, weights, label)
    if label is not None and checked["label"] != label:
        raise InputError(f"{path}: is net_{checked['label']}, but net_{label} was asked for; give another file")
    return NetworkFile(path, checked, weights)


def _of_mmengine(content: dict[str, Any], path: Path, order: tuple[str, ...]) -> tuple[Any, dict[str, Tensor]]:
    """One of the networks that `mm.checkpoints` says a checkpoint holds, by what their weights' names begin with."""
    networks = content.get(KEY)
    if not isinstance(networks, dict):
        raise InputError(
            f"{path}: does not say which networks it holds; give a checkpoint that WholeCheckpointHook saved (with "
            "options/mmengine), or a network file"
        )
    found = {_checked(about, path)["label"]: (about, f"{name}.") for name, about in networks.items()}
    chosen = next((label for label in order if label in found), None)
    if chosen is None:
        held = ", ".join(f"net_{label}" for label in found)
        raise InputError(f"{path}: holds no trained net_{' or net_'.join(order)}, but {held}; give another file")
    about, prefix = found[chosen]
    weights = weights_of(content, path, "state_dict")
    return about, {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _noted(path: Path) -> Any:
    with safetensors.safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get(KEY)
    return None if text is None else _parsed(text, path)


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: what it says of itself is no JSON ({error}); save it again") from error


def about_from_json(text: str, path: Path) -> dict[str, Any]:
    """Read `about` of what `as_metadata` wrote.

    Args:
        text: The JSON.
        path: The file that it is in, for messages.

    Returns:
        As `describe`.

    Raises:
        InputError: If it was changed.
    """
    return _checked(_parsed(text, path), path)


def _is_small(about: Any) -> bool:
    """Whether it is plain values, and few: of a list that is in it many times, each time counts."""
    waiting, left = [about], _LARGEST
    while waiting and left > 0:
        value, left = waiting.pop(), left - 1
        if isinstance(value, dict | list | tuple):
            waiting += islice([*value, *value.values()] if isinstance(value, dict) else value, left)
        elif not is_plain(value):
            return False
    return not waiting


def _checked(about: Any, path: Path) -> dict[str, Any]:
    if not _is_small(about):
        raise InputError(f"{path}: about: expected some plain values; it was changed: save it again")
    found = about.get("format") if isinstance(about, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise InputError(f"{path}: is of format {found}, but this version reads up to {FORMAT}; upgrade nlcl_plugin")
    try:
        checked = _About.model_validate(about).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(("about", *map(str, first["loc"])))
        raise InputError(f"{path}: {where}: {first['msg']}; it was changed: save it again") from error
    kind = checked["network"].get("type")
    if not isinstance(kind, str) or not kind.isprintable():
        raise InputError(f"{path}: about.network: expected a block with `type`; it was changed: save it again")
    network = checked["network"]
    if network["type"] in OPENS_FILES or any("path" in key and isinstance(network[key], str) for key in network):
        raise InputError(f"{path}: its network {network['type']} opens other files, which no network file may ask for")
    return checked


def _guessed(path: Path, weights: dict[str, Tensor], label: str | None) -> dict[str, Any]:
    """What a file is that does not say so, by the options beside it or its very weights."""
    named = _NAME.fullmatch(path.stem)
    options = path.absolute().parent.parent / "options.yml"
    label = label or (named["label"] if named else None)
    if label and options.is_file():
        block = load_yaml(str(options)).get(f"network_{label}")
        if not isinstance(block, dict):
            raise InputError(f"{options}: has no network_{label}, which {path.name} should be of; give another file")
        iteration = path.stem.rpartition("_")[2]
        return {**describe(block, label, iteration=int(iteration) if iteration.isdecimal() else None), KEY: None}
    layer = released_layer(weights)
    if layer is None and _shapes(weights) == _shapes(LayerGenerator().state_dict()):  # those, trained further
        layer = "rain" if label == "r" or (label is None and "rain" in path.name.lower()) else "image"
    if layer is not None:
        return official_about(layer)
    raise InputError(
        f"{path}: does not say which network it is of, and there is no {options}; give the folder of its training, or "
        "a file that this version saved"
    )


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def released_layer(weights: Mapping[str, Tensor]) -> str | None:
    """Tell which of the released NLCL generators, converted, a state dict is.

    Args:
        weights: Of a `LayerGenerator`.

    Returns:
        `image` (latest_net_Back.pth), `rain` (latest_net_Rain.pth), or None for neither.
    """
    bias = weights.get("last.bias")
    if bias is None or bias.dtype != torch.float32:
        return None
    return _RELEASED.get(hashlib.sha256(bias.detach().cpu().numpy().tobytes()).hexdigest())


def official_about(layer: str) -> dict[str, Any]:
    """Describe a released NLCL generator.

    Args:
        layer: `image` (latest_net_Back.pth) or `rain` (latest_net_Rain.pth).

    Returns:
        As `describe`.
    """
    about = describe({"type": "LayerGenerator", "layer": layer}, "r" if layer == "rain" else "g", net=LayerGenerator())
    return {**about, "license": OFFICIAL_LICENSE}
