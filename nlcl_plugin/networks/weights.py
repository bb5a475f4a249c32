"""Weights on disk: found in a folder of checkpoints, loaded, written as .safetensors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.safe_load import load_plain, weights_of


def saved_states(folder: str | os.PathLike[str]) -> dict[str, Path]:
    """Find training states; returns the files by iteration."""
    return numbered(Path(folder), ".state")


def numbered(folder: Path, suffix: str) -> dict[str, Path]:
    """Files of a folder that are named by an iteration alone, by that name without its suffix."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return {path.stem: path for path in paths if re.fullmatch(rf"\d+\{suffix}", path.name)}


def saved_networks(models: str | os.PathLike[str], label: str) -> dict[str, Path]:
    """Find the saved files of a network.

    Args:
        models: The folder `models` of a training.
        label: The network's label, such as `g`.

    Returns:
        The .pth files by iteration, such as `5000`, or `latest`.
    """
    pattern = re.compile(rf"net_{re.escape(label)}_(?P<which>latest|\d+)\.pth")
    return {match["which"]: path for path in Path(models).glob("*") if (match := pattern.fullmatch(path.name))}


def newest(found: Mapping[str, Path]) -> Path:
    """The newest of the files of one network, by iteration: the times of files change when they are copied.

    `latest`, which the end of a training writes, is the newest unless it says that it is of an earlier iteration than
    another file: then the training went on after that end.

    Args:
        found: The files, at least one, as `saved_networks` gives them.

    Returns:
        One of them.
    """
    numbered = {int(which): path for which, path in found.items() if which != "latest"}
    if "latest" in found and (not numbered or _iteration_of(found["latest"], math.inf) >= max(numbered)):
        return found["latest"]
    return numbered[max(numbered)]


def _iteration_of(path: Path, otherwise: float) -> float:
    try:
        iteration = load_plain(path)["about"]["iter"]
    except (InputError, KeyError, TypeError):  # whoever loads a torn file says so; one of stock BasicSR has no `about`
        return otherwise
    return iteration if isinstance(iteration, int) else otherwise


def newest_checkpoint(path: str, key: str) -> str:
    """Resolve a checkpoint path; of a folder, the newest checkpoint by iteration (see `newest`).

    Args:
        path: A file, or a folder such as `experiments/NAME/models`.
        key: The option: `resume_state`, or `pretrain_network_X` for files `net_X_*.pth` of that letter alone.

    Returns:
        The file.

    Raises:
        InputError: If there is none.
    """
    if os.path.isfile(path):
        return path
    if not os.path.isdir(path):
        raise InputError(f"path.{key}: there is no file or folder {path!r}; train first, or give another path")
    label = key.partition("pretrain_network_")[2]
    found = saved_networks(path, label) if label else saved_states(path)
    if not found:
        raise InputError(f"path.{key}: the folder {path!r} holds no {f'net_{label}_*.pth' if label else '*.state'}")
    return str(newest(found))


def load_weights(path: str | os.PathLike[str], *keys: str | None) -> dict[str, Tensor]:
    """Load the weights of a network from a .pth or .safetensors file, wherever they are in it.

    Args:
        path: The file.
        *keys: Where to look first; see `plain_file.weights_key`.

    Returns:
        The state dict, on the CPU, without the `module.` that a wrapped network puts before each name.

    Raises:
        InputError: If the file is missing, broken or has no weights there.
    """
    path = Path(path)
    return weights_of(load_plain(path), path, *keys)


def save_safetensors(
    path: str | os.PathLike[str], state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write weights as .safetensors, which other tools read without torch; whole or not at all.

    Args:
        path: The file.
        state_dict: The weights.
        metadata: What to note beside them; the format keeps texts only.
    """
    with written_whole(path) as file:
        file.write(safetensors_bytes(state_dict, metadata))


def safetensors_bytes(state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> bytes:
    """What `save_safetensors` writes."""
    # Contiguous and apart, as the format wants: weights may be channels-last or share memory.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state_dict.items()
    }
    notes = {"format": "pt", **{key: str(value) for key, value in (metadata or {}).items()}}
    return safetensors.torch.save(tensors, notes)
