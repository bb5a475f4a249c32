"""Weights on disk: loaded without running code, found in a folder of checkpoints, written as .safetensors."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nlcl_plugin.errors import InputError

PACKAGED = {file.stem: file for file in sorted((Path(__file__).parents[1] / "weights").glob("*.safetensors"))}
BEST_FILE = "best.json"  # in `models`: which iteration was best in validation; training.checkpoint writes it


def load_plain(path: Path, kind: str = "file of weights") -> Any:
    """Load a file of `torch.save` or a .safetensors file, without ever running code from it.

    It contains tensors, which come to the CPU, and plain values; `kind` says in messages what it should be.

    Raises:
        InputError: If it is missing, damaged, or contains anything else.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file or folder") from error
    except Exception as error:  # torch.load raises nearly anything on a file that is no checkpoint
        # Torch's own text explains how to load it all the same, or is a bare key.
        refused = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        advice = "only tensors and plain values are loaded, so that no code can run"
        reason = f" (it contains {refused[1]}, but {advice})" if refused else ""
        raise InputError(f"{path}: damaged, or not a {kind}{reason}") from error


def weights_key(content: Any, *keys: str | None) -> str | None:
    """The first of `keys`, `params_ema` and `params` under which content has weights; None for the content itself."""
    # Entries that are tensors are the weights themselves, whatever their names.
    entries = content if isinstance(content, dict) else {}
    wanted = (*keys, "params_ema", "params")
    return next((key for key in wanted if key is not None and not isinstance(entries.get(key, Tensor()), Tensor)), None)


def weights_of(content: Any, path: Path, *keys: str | None) -> dict[str, Tensor]:
    """Take the weights out of what a file contains, without the `module.` of wrapped networks; see `weights_key`."""
    key = weights_key(content, *keys)
    weights = content if key is None else content[key]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        if keys and key is None and isinstance(weights, dict):  # who asks for none has no such option
            asked = " or ".join(repr(one) for one in dict.fromkeys((*keys, "params_ema", "params")) if one is not None)
            found = ", ".join(map(str, list(weights)[:3]))
            raise InputError(f"{path}: has no weights under {asked} but {found}; name their key in path.param_key_X")
        where = f" under {key!r}" if key is not None else ""
        raise InputError(f"{path}: expected the weights of a network{where}, but it contains something else")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def numbered(folder: Path, suffix: str) -> dict[str, Path]:
    """Files of a folder that are named by an iteration alone, by that name without its suffix."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.stem: path for path in paths if re.fullmatch(rf"\d+\{suffix}", path.name)}


def saved_networks(models: str | os.PathLike[str], label: str) -> dict[str, Path]:
    """The .pth files of a network, such as `g`, in the folder `models`, by iteration, such as `5000`, or `latest`."""
    pattern = re.compile(rf"net_{re.escape(label)}_(?P<which>latest|\d+)\.pth")
    return {match["which"]: path for path in Path(models).glob("*") if (match := pattern.fullmatch(path.name))}


def newest(found: Mapping[str, Path]) -> Path:
    """The newest of the files of one network, by iteration: the times of files change when they are copied.

    `latest`, which the end of a training writes, is the newest unless it is of an earlier iteration than another file:
    then the training was continued after that end. `found` is not empty; see `saved_networks`.
    """
    numbers = {int(which): path for which, path in found.items() if which != "latest"}
    if "latest" in found and (not numbers or _iteration_of(found["latest"]) >= max(numbers)):
        return found["latest"]
    return numbers[max(numbers)]


def _iteration_of(path: Path) -> float:
    try:
        iteration = load_plain(path)["about"]["iter"]
    except (InputError, KeyError, TypeError):  # damaged: its reader says so; stock BasicSR writes no `about`
        return math.inf
    return iteration if isinstance(iteration, int) else math.inf


def best_iteration(models: str | os.PathLike[str]) -> int | None:
    """The iteration that was best in validation, by `best.json` of the folder `models`; None if it records none."""
    try:
        iteration = json.loads((Path(models) / BEST_FILE).read_bytes())["iter"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return iteration if isinstance(iteration, int) else None


def best_or_newest(models: str | os.PathLike[str], label: str, *, take_newest: bool = False) -> Path | None:
    """The saved file of a network, such as `g`, to make results with, in the folder `models` of a training.

    That of the best iteration if one is recorded and its file exists, else the newest, or None if there is no file.
    """
    found = saved_networks(models, label)
    best = None if take_newest else found.get(str(best_iteration(models)))
    return best or (newest(found) if found else None)


def find_weights(path: str | os.PathLike[str]) -> Path:
    """The path of weights, which may be a name of `PACKAGED`; a file or folder of that name comes first."""
    found = Path(os.path.expanduser(path))
    return found if found.exists() else PACKAGED.get(os.fspath(path), found)


def newest_checkpoint(path: str, key: str) -> str:
    """Resolve the value of an option: a file, or of a folder its newest checkpoint by iteration (see `newest`).

    The option `key` is `resume_state`, or `pretrain_network_X` for files `net_X_*.pth` of that letter alone, and for
    names of `PACKAGED`.

    Raises:
        InputError: If there is none.
    """
    label = key.partition("pretrain_network_")[2]
    path = str(find_weights(path)) if label else path
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise InputError(f"path.{key}: {path}: no such file or folder; train first, or give another path")
    found = saved_networks(path, label) if label else numbered(Path(path), ".state")
    if not found:
        raise InputError(f"path.{key}: the folder {path!r} contains no {f'net_{label}_*.pth' if label else '*.state'}")
    return str(newest(found))


def safetensors_bytes(state_dict: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The content of a .safetensors file, which other tools read without torch, with weights and metadata."""
    # Contiguous and apart, as the format wants: weights may be channels-last or share memory.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state_dict.items()
    }
    return safetensors.torch.save(tensors, {"format": "pt", **metadata})
