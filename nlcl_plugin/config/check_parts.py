"""Blocks with a `type` against what they are given to: networks, losses, optimizers, schedules and metrics."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import torch
from basicsr.models.base_model import BaseModel
from basicsr.models.hifacegan_model import HiFaceGANModel
from basicsr.models.stylegan2_model import StyleGAN2Model
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, Registry
from torch.overrides import TorchFunctionMode

from nlcl_plugin.config.blocks import NetworkBlock
from nlcl_plugin.config.schema import check_known, join_message, suggest
from nlcl_plugin.config.train_options import Built, LossBlock, OptimizerOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.optimization import build_optimizer, build_scheduler

FILLED_IN = {"ProjectionHeads": {"in_channels"}}  # arguments that the model adds


class StockOptimizer(OptimizerOptions):
    """An optimizer that BasicSR makes."""


class StockSchedule(Built):
    """A schedule that BasicSR makes."""


class _WithoutMemory(TorchFunctionMode):
    """Within it parameters have shapes only, without memory; all else is computed as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        return func(*args, **({**kwargs, "device": "meta"} if func is torch.empty else kwargs))


def try_out(block: Built) -> None:
    """Build once what a block of `train` names.

    Raises:
        InputError: If it cannot be built; the message begins with the key within the block.
    """
    next(trial for kind, trial in _TRIALS.items() if isinstance(block, kind))(block)


def check_network(sizes: dict[str, int], key: str, block: NetworkBlock) -> NetworkBlock:
    """Build a network, whose key is given, without memory for its weights.

    Its number of parameters goes into `sizes`, unless the model fills in arguments.

    Raises:
        InputError: If an argument is unknown, missing or refused, or the network is larger than this machine's memory.
    """
    arguments = block.model_extra or {}
    cls = _constructor(ARCH_REGISTRY, block.type, arguments)
    if block.type in FILLED_IN:
        return block
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn about comes again when the model is built
        try:
            with _WithoutMemory():
                net = cls(**arguments)
        except Exception:  # some compute with their weights while they are made, which then have to be there
            net = build_once("", lambda: cls(**arguments))
    sizes[key] = count = sum(p.numel() for p in net.parameters())
    memory = psutil.virtual_memory().total
    if 4 * count > memory:
        raise InputError(
            f"{block.type} has {count:,} parameters with these options, {4 * count / 2**30:,.0f} GiB, and "
            f"this machine has {memory / 2**30:,.0f} GiB of memory; lower its sizes"
        )
    return block


def _loss(block: Built) -> None:
    arguments = block.model_extra or {}
    cls = _constructor(LOSS_REGISTRY, block.type, arguments)
    for key, value in arguments.items():
        if key.endswith("_weight") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f".{key}: expected a number, but received {value!r}")
    if block.type != "PerceptualLoss":  # which loads weights when it is made
        build_once("", lambda: cls(**arguments))


def _parameter() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.zeros(1))]


def _stock_optimizer(block: Any) -> None:
    arguments = block.arguments()
    build_once("", lambda: BaseModel.get_optimizer(SimpleNamespace(), block.type, _parameter(), **arguments))


def _stock_schedule(block: Built) -> None:
    opt = {"train": {"scheduler": block.build_options()}}
    stub = SimpleNamespace(opt=opt, optimizers=[torch.optim.SGD(_parameter(), lr=1.0)], schedulers=[])
    build_once("", lambda: BaseModel.setup_schedulers(stub))


_TRIALS: dict[type[Built], Callable[[Any], None]] = {
    LossBlock: _loss,
    StockOptimizer: _stock_optimizer,
    OptimizerOptions: lambda block: build_once("", lambda: build_optimizer(block, _parameter(), "")),
    StockSchedule: _stock_schedule,
    Built: lambda block: build_once("", lambda: build_scheduler(block, torch.optim.Adam(_parameter()), total_iter=1)),
}


def stock_blocks(model: Any) -> dict[str, Any]:
    """The optimizers and the schedule that BasicSR makes for a model, by their keys in `train`, with their schemas.

    A model class that makes its own is left to it.
    """
    found: dict[str, Any] = {}
    setup: Any = getattr(model, "setup_optimizers", None)
    stock = getattr(setup, "__module__", "").startswith("basicsr.") and "get_optimizer" in setup.__code__.co_names
    if stock and model.get_optimizer is BaseModel.get_optimizer:
        keys = [key for key in setup.__code__.co_consts if isinstance(key, str) and key.startswith("optim_")]
        found.update(dict.fromkeys(keys, (StockOptimizer, ...)))
    if getattr(model, "setup_schedulers", None) is BaseModel.setup_schedulers:
        found["scheduler"] = (StockSchedule, ...)
    return found


def check_stock_limits(model: Any, options: dict[str, Any]) -> None:
    """Refuse what a model of BasicSR would refuse when it is built or at its first validation."""
    watched = [name for name in options["datasets"] if name != "train"]
    train = options.get("train") or {}
    if issubclass(model, HiFaceGANModel) and train.get("ema_decay"):
        raise InputError(f"train.ema_decay: {model.__name__} has no moving average; leave it out, or use 0")
    if issubclass(model, StyleGAN2Model) and watched:
        raise InputError(f"datasets.{watched[0]}: {model.__name__} validates on no images; leave the dataset out")
    if issubclass(model, VideoBaseModel) and train and watched and (options.get("val") or {}).get("save_img"):
        raise InputError("val.save_img: BasicSR's video models save no images while they train; use save_img: false")


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
    own = "if it is your own, give --import MODULE, the module that registers it"
    hint = f"{suggest(name, registry.keys())}; {own}"
    raise InputError(f"{where}: no {registry._name} is named {name!r}{hint}")
