"""Weights that the options name, loaded into a network."""

from __future__ import annotations

from typing import Any

from torch import nn


def load_pretrained(model: Any, net: nn.Module, label: str, param_key: str | None) -> None:
    """Load `path.pretrain_network_{label}`, if it is given.

    Args:
        model: A BasicSR model.
        net: The network.
        label: Its label, such as `g`.
        param_key: Which weights of the file; see `networks.weights.weights_key`.

    Raises:
        InputError: If the file has no weights, or others than the network's.
    """
    options = model.opt["path"]
    path = options.get(f"pretrain_network_{label}")
    if path is not None:
        model.load_network(net, path, options.get(f"strict_load_{label}", True), param_key)
