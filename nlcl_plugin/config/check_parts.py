"""Blocks with a `type` against the signatures of what they name: networks, losses and metrics."""

from __future__ import annotations

import inspect
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, Registry

from nlcl_plugin.config.blocks import NetworkBlock
from nlcl_plugin.config.schema import check_known, suggest
from nlcl_plugin.config.train_options import LossBlock
from nlcl_plugin.errors import InputError

FILLED_IN = {"ProjectionHeads": {"in_channels"}}  # arguments that the model adds


def check_network(block: NetworkBlock) -> NetworkBlock:
    """See that a network's constructor takes the arguments; an InputError begins with the key within the block."""
    _check_arguments(ARCH_REGISTRY, block.type, block.model_extra or {})
    return block


def check_loss(block: LossBlock) -> None:
    """See that a loss's constructor takes the arguments; an InputError begins with the key within the block."""
    _check_arguments(LOSS_REGISTRY, block.type, block.model_extra or {})


def check_metric(where: str, metric: dict[str, Any], *, refuse: bool) -> None:
    """Check a metric's block."""
    function = registered(METRIC_REGISTRY, f"{where}.type", metric["type"])
    parameters = inspect.signature(function).parameters
    known = {key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - {"img", "img2"}
    check_known(f"{where}.", metric, {*known, "type", "better"}, refuse=refuse)
    for key in sorted(known - set(metric)):
        if parameters[key].default is inspect.Parameter.empty:
            raise InputError(f"{where}.{key} is missing: {metric['type']} needs it")


def _check_arguments(registry: Registry, name: str, arguments: dict[str, Any]) -> None:
    parameters = inspect.signature(registered(registry, ".type", name)).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    check_known(".", arguments, {*parameters, "type"}, refuse=True)
    needed = {key for key, p in parameters.items() if p.default is inspect.Parameter.empty}
    for key in sorted(needed - set(arguments) - FILLED_IN.get(name, set())):
        raise InputError(f".{key} is missing: {name} needs it")


def registered(registry: Registry, where: str, name: str) -> Any:
    """The entry of a name in a registry of BasicSR."""
    for known in (name, f"{name}_basicsr"):
        if known in registry:
            return registry._obj_map[known]
    own = "if it is your own, give --import MODULE, the module that registers it"
    raise InputError(f"{where}: no {registry._name} is named {name!r}; {own}{suggest(name, registry.keys())}")
