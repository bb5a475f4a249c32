"""Networks of a training that is over: its options, and a network with its weights."""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from basicsr.archs import build_network
from torch import nn

from nlcl_plugin.engine.checkpoint import load_weights
from nlcl_plugin.engine.options import load_yaml
from nlcl_plugin.errors import InputError


def experiment_options(experiment: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """Read the options in the folder of a training.

    Args:
        experiment: The folder, such as `experiments/nlcl_quickstart`.

    Returns:
        The folder, and the options.

    Raises:
        InputError: If there are none.
    """
    folder = Path(os.path.expanduser(experiment))
    if not (folder / "options.yml").is_file():
        raise InputError(f"{folder}: has no options.yml; expected the folder of a training, such as experiments/NAME")
    return folder, load_yaml(str(folder / "options.yml"))


def load_network(
    options: dict[str, Any], label: str, weights: str | os.PathLike[str], param_key: str = "params_ema"
) -> nn.Module:
    """Build a network of options with weights, to infer with.

    Args:
        options: Options with the block `network_*`.
        label: Its label, such as `g`.
        weights: A checkpoint of it.
        param_key: Which weights of it, where there are several.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: If it cannot be built, or the weights are not its own.
    """
    where = f"network_{label}"
    try:
        net: nn.Module = build_network(deepcopy(options[where]))
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: cannot be built ({reason}); correct the options") from error
    try:
        net.load_state_dict(load_weights(weights, param_key))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{weights}: does not fit {where} of the options ({reason}); give its own") from error
    return net.eval().requires_grad_(False)
