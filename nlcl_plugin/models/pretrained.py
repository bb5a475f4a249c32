"""Weights that the options name, loaded into a network, with faults told by the option's name."""

from __future__ import annotations

from typing import Any

from torch import nn

from nlcl_plugin.errors import InputError


def load_pretrained(model: Any, net: nn.Module, label: str, param_key: str) -> None:
    """Load `path.pretrain_network_{label}`, if it is given.

    Args:
        model: A BasicSR model.
        net: The network.
        label: Its label, such as `g`.
        param_key: Which weights of the file.

    Raises:
        InputError: If the file has no such weights, or others than the network's.
    """
    options = model.opt["path"]
    path = options.get(f"pretrain_network_{label}")
    if path is None:
        return
    try:
        model.load_network(net, path, options.get(f"strict_load_{label}", True), param_key)
    except KeyError as error:
        raise InputError(f"{path}: holds no weights under {error}; set path.param_key_{label}") from error
    except Exception as error:  # torch.load raises nearly anything on a file that is no checkpoint
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"path.pretrain_network_{label}: {path} does not fit network_{label} or is no checkpoint ({reason})"
        ) from error
