"""Blocks with a `type` against what they are given to: networks, losses and metrics."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, Registry

from nlcl_plugin.config.blocks import NetworkBlock
from nlcl_plugin.config.schema import check_known, join_message, suggest
from nlcl_plugin.config.train_options import LossBlock
from nlcl_plugin.errors import InputError

FILLED_IN = {"ProjectionHeads": {"in_channels"}}  # arguments that the model adds


def check_network(block: NetworkBlock) -> NetworkBlock:
    """Check the arguments of a network; an InputError if one is unknown or missing."""
    _constructor(ARCH_REGISTRY, block.type, block.model_extra or {})
    return block


def check_loss(block: LossBlock) -> None:
    """Build a loss once; an InputError, whose message begins with the key within the block, if it cannot be built."""
    arguments = block.model_extra or {}
    cls = _constructor(LOSS_REGISTRY, block.type, arguments)
    for key, value in arguments.items():
        if key.endswith("_weight") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f".{key}: expected a number, but received {value!r}")
    if block.type != "PerceptualLoss":  # which loads weights when it is made
        build_once("", lambda: cls(**arguments))


def check_metric(where: str, metric: dict[str, Any], *, refuse: bool) -> None:
    """Check a metric's block."""
    function = registered(METRIC_REGISTRY, f"{where}.type", metric["type"])
    parameters = inspect.signature(function).parameters
    known = {key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD} - {"img", "img2"}
    check_known(f"{where}.", metric, {*known, "type", "better"}, refuse=refuse)
    for key in sorted(known - set(metric)):
        if parameters[key].default is inspect.Parameter.empty:
            raise InputError(f"{where}.{key} is missing: {metric['type']} needs it")


def _constructor(registry: Registry, name: str, arguments: dict[str, Any]) -> Any:
    """The class of a name, whose signature has the arguments."""
    cls = registered(registry, ".type", name)
    parameters = inspect.signature(cls).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return cls
    check_known(".", arguments, parameters, refuse=True)
    needed = {key for key, p in parameters.items() if p.default is inspect.Parameter.empty}
    for key in sorted(needed - set(arguments) - FILLED_IN.get(name, set())):
        raise InputError(f".{key} is missing: {name} needs it")
    return cls


def build_once(where: str, make: Callable[[], Any]) -> Any:
    """Build something, so that what its constructor refuses is named by its block.

    Returns:
        What was built.

    Raises:
        InputError: If it was refused.
    """
    try:
        return make()
    except InputError as error:  # ours name the key
        named = not where or str(error).startswith(where)
        raise error if named else InputError(join_message(where, f".{error}")) from error
    except KeyError as error:
        raise InputError(f"{where}.{error.args[0] if error.args else '?'} is missing or unknown") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        kind = "" if isinstance(error, ValueError | AssertionError) and reason else f"{type(error).__name__}: "
        raise InputError(f"{where}: {kind}{reason}") from error


def registered(registry: Registry, where: str, name: str) -> Any:
    """The entry of a name in a registry of BasicSR."""
    for known in (name, f"{name}_basicsr"):
        if known in registry:
            return registry._obj_map[known]
    raise InputError(f"{where}: no {registry._name} is named {name!r}{suggest(name, registry.keys())}")
