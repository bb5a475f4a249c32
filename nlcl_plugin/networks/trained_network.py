"""Networks of a training that is over: its options, its files, and a network with its weights."""

from __future__ import annotations

import os
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from basicsr.archs import build_network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.weights import load_weights


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
    options: dict[str, Any], label: str, weights: str | os.PathLike[str], param_key: str | None = None
) -> nn.Module:
    """Build a network of options with weights, to infer with.

    Args:
        options: Options with the block `network_*`.
        label: Its label, such as `g`.
        weights: A checkpoint of it.
        param_key: Which weights of it; see `networks.safe_load.weights_key`.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: If it cannot be built, or the weights are not its own.
    """
    where = f"network_{label}"
    if not isinstance(options.get(where), dict):
        raise InputError(f"{where}: the options have no such block; give those that {weights} was trained with")
    return build_with_weights(options[where], load_weights(weights, param_key), where=where, source=weights)


def build_with_weights(
    block: Mapping[str, Any], weights: dict[str, Tensor], *, where: str, source: str | os.PathLike[str]
) -> nn.Module:
    """Build a network with weights, to infer with.

    Args:
        block: Its options: `type` and arguments.
        weights: Its state dict.
        where: What the block is, for messages.
        source: Where the weights are from, for messages.

    Returns:
        The network, on the CPU.

    Raises:
        InputError: If it cannot be built, or the weights are not its own.
    """
    try:
        with _SizeOf(weights):
            net: nn.Module = build_network(deepcopy(dict(block)))
    except _OutgrownError as error:
        raise InputError(f"{source}: does not fit {where} ({error}); give its own") from error
    except Exception as error:  # an architecture may raise anything on arguments that it was not made for
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{where}: cannot be built ({reason}); correct its arguments") from error
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: does not fit {where} ({reason}); give its own") from error
    return net.eval().requires_grad_(False)


class _OutgrownError(Exception):
    pass


class _SizeOf(TorchDispatchMode):
    """Within it, building a network ends when it outgrows its weights: a file may ask for one of any size."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        # What many names share is stored once.
        stored = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in weights.values()}
        # Initialising goes over each value some times; positions and masks come on top.
        self._values = 30 * sum(stored.values()) // 4 + 10_000_000
        self._operations = 100 * len(weights) + 1000

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._operations -= 1
        self._values -= result.numel() if isinstance(result, Tensor) else 0
        if self._values < 0 or self._operations < 0:
            raise _OutgrownError("the network is far larger")
        return result
