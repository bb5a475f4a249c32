"""Blocks with a `type` against what they will be given to: networks, losses, optimizers, schedules and metrics."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterable
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

from nlcl_plugin.engine.schema_check import check_known, check_numbers, check_schema, suggest
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.nlcl_options import Built, OptimizerOptions
from nlcl_plugin.models.optimization import SCHEDULERS, build_optimizer, build_scheduler

OPTIMIZERS = [name for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"]
FILLED_IN = {"ProjectionHeads": {"in_channels"}}  # arguments that the model adds
LARGEST_SIZE = 2**16  # of anything in a network: channels, blocks, windows
HEAVY_LOSSES = ("PerceptualLoss",)  # load weights when they are made


class _WithoutMemory(TorchFunctionMode):
    """Within it parameters take no memory and no time, as they have shapes only; all else is computed as ever."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        return func(*args, **({**kwargs, "device": "meta"} if func is torch.empty else kwargs))


def check_network(where: str, block: Any) -> int | None:
    """Check a network's block and that the network can be made.

    Args:
        where: Its key, such as `network_g`.
        block: The block.

    Returns:
        The number of its parameters; None if the model fills arguments in.

    Raises:
        InputError: If an argument is unknown, missing or refused, or the network is larger than this machine's memory.
    """
    cls, arguments = check_call(ARCH_REGISTRY, where, block)
    check_numbers(where, block)
    _check_sizes(where, arguments)
    if block["type"] in FILLED_IN:
        return None
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what there is to warn about comes again when the model is built
        try:
            with _WithoutMemory():
                net = cls(**arguments)
        except Exception:  # some compute with their weights while they are made, which then have to be there
            net = tried(where, lambda: cls(**arguments))
    count = sum(p.numel() for p in net.parameters())
    memory = psutil.virtual_memory().total
    if 4 * count > memory:
        raise InputError(
            f"{where}: {block['type']} has {count:,} parameters with these options, {4 * count / 2**30:,.0f} GiB, and "
            f"this machine has {memory / 2**30:,.0f} GiB of memory; lower its sizes"
        )
    return count


def _check_sizes(where: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_sizes(f"{where}.{key}", entry)
    elif isinstance(value, list):
        for entry in value:
            _check_sizes(where, entry)
    elif isinstance(value, int | float) and abs(value) > LARGEST_SIZE:
        raise InputError(f"{where}: {value!r} is too large for a network; expected at most {LARGEST_SIZE:,}")


def check_loss(where: str, block: Any) -> None:
    """Check a loss's block, without what the model reads of it, and that the loss can be made."""
    cls, arguments = check_call(LOSS_REGISTRY, where, block)
    check_numbers(where, block)
    for key, value in arguments.items():
        if key.endswith("_weight") and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise InputError(f"{where}.{key}: expected a number, but received {value!r}")
    if block["type"] not in HEAVY_LOSSES:
        tried(where, lambda: cls(**arguments))


def check_optimizer(where: str, block: Any) -> Any:
    """Check an optimizer's block; returns an optimizer of a parameter that nobody has."""
    check_name(f"{where}.type", type_of(where, block), OPTIMIZERS, "torch.optim has no")
    check_numbers(where, block)
    check_schema(OptimizerOptions, block, where)
    options = OptimizerOptions.model_validate(block)
    return tried(where, lambda: build_optimizer(options, [torch.nn.Parameter(torch.zeros(1))], where))


def check_stock_optimizers(model: Any, train: dict[str, Any]) -> None:
    """Check the optimizers' blocks by what makes optimizers in BasicSR; a model that makes its own is left to it.

    Args:
        model: A model class that is not ours.
        train: The block `train`.

    Raises:
        InputError: If a block is missing, or BasicSR makes no such optimizer.
    """
    setup: Any = getattr(model, "setup_optimizers", None)
    stock = getattr(setup, "__module__", "").startswith("basicsr.") and "get_optimizer" in setup.__code__.co_names
    if not stock or model.get_optimizer is not BaseModel.get_optimizer:
        return
    for key in setup.__code__.co_consts:  # the keys that it reads
        if isinstance(key, str) and key.startswith("optim_"):
            where, block = f"train.{key}", train.get(key) or {}
            name = type_of(where, block)
            check_numbers(where, block)
            check_schema(OptimizerOptions, block, where)
            arguments = {**block, "params": [torch.nn.Parameter(torch.zeros(1))], "optim_type": name}
            del arguments["type"]
            _made_by_basicsr(where, name, functools.partial(BaseModel.get_optimizer, SimpleNamespace(), **arguments))


def check_stock_schedule(model: Any, block: Any) -> None:
    """Check the block `train.scheduler` as `check_stock_optimizers` does those of optimizers."""
    if getattr(model, "setup_schedulers", None) is not BaseModel.setup_schedulers:
        return
    where = "train.scheduler"
    name = type_of(where, block)
    check_numbers(where, block)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    stub = SimpleNamespace(opt={"train": {"scheduler": dict(block)}}, optimizers=[optimizer], schedulers=[])
    _made_by_basicsr(where, name, lambda: BaseModel.setup_schedulers(stub))


def _made_by_basicsr(where: str, name: str, make: Callable[[], Any]) -> None:
    try:
        tried(where, make)
    except InputError as error:
        if not isinstance(error.__cause__, NotImplementedError):
            raise
        reason = "take another, or a model class with a method of its own for it"
        raise InputError(f"{where}.type: BasicSR's models have no {name!r}; {reason}") from error


def check_stock_limits(model: Any, options: dict[str, Any]) -> None:
    """Refuse what a model of BasicSR would refuse when it is built or at its first validation."""
    if issubclass(model, HiFaceGANModel) and options["is_train"] and options["train"].get("ema_decay"):
        raise InputError(f"train.ema_decay: {model.__name__} has no moving average; leave it out, or use 0")
    watched = [name for name in options["datasets"] if name != "train"]
    if issubclass(model, StyleGAN2Model) and watched:
        raise InputError(f"datasets.{watched[0]}: {model.__name__} validates on no images; leave the dataset out")
    if issubclass(model, VideoBaseModel) and options["is_train"] and watched and options["val"].get("save_img"):
        raise InputError("val.save_img: BasicSR's video models save no images while they train; use save_img: false")


def check_schedule(block: Any, optimizer: Any, total_iter: int) -> None:
    """Check the block `train.scheduler`."""
    where = "train.scheduler"
    check_name(f"{where}.type", type_of(where, block), SCHEDULERS, "no scheduler is named")
    check_numbers(where, block)
    tried(where, lambda: build_scheduler(Built.model_validate(block), optimizer, total_iter))


def check_metric(where: str, metric: Any, *, refuse: bool) -> None:
    """Check a metric's block."""
    function = registered(METRIC_REGISTRY, f"{where}.type", type_of(where, metric))
    parameters = inspect.signature(function).parameters
    known = [key for key, p in parameters.items() if p.kind is not p.VAR_KEYWORD]
    check_known(f"{where}.", metric, {*known, "type", "better"} - {"img", "img2"}, refuse=refuse)
    for key in known:
        if parameters[key].default is inspect.Parameter.empty and key not in ("img", "img2") and key not in metric:
            raise InputError(f"{where}.{key} is missing: {metric['type']} needs it")
    if metric.get("better", "higher") not in ("higher", "lower"):
        raise InputError(f"{where}.better: expected higher or lower, but received {metric['better']!r}")


def check_call(registry: Registry, where: str, block: Any) -> tuple[Any, dict[str, Any]]:
    """Check a block's keys against the constructor that it will be given to; returns both."""
    name = type_of(where, block)
    cls = registered(registry, f"{where}.type", name)
    parameters = inspect.signature(cls).parameters
    arguments = {key: value for key, value in block.items() if key != "type"}
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return cls, arguments
    for key in sorted(set(arguments) - set(parameters)):
        raise InputError(f"{where}.{key}: {name} has no such option{suggest(key, parameters)}")
    needed = {key for key, p in parameters.items() if p.default is inspect.Parameter.empty}
    for key in sorted(needed - set(arguments) - FILLED_IN.get(name, set())):
        raise InputError(f"{where}.{key} is missing: {name} needs it")
    return cls, arguments


def tried(where: str, make: Callable[[], Any]) -> Any:
    """Make something once, so that what its constructor refuses is told by the name of its block.

    Args:
        where: The block's name.
        make: Calls the constructor.

    Returns:
        What was made.

    Raises:
        InputError: If it was refused.
    """
    try:
        return make()
    except InputError as error:
        # Ours name the key, some of them in full.
        raise error if str(error).startswith(where) else InputError(f"{where}.{error}") from error
    except KeyError as error:
        raise InputError(f"{where}.{error.args[0] if error.args else '?'} is missing or unknown") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        named = "" if isinstance(error, ValueError | AssertionError) and reason else f"{type(error).__name__}: "
        raise InputError(f"{where}: {named}{reason}") from error


def type_of(where: str, block: Any) -> str:
    """The `type` of a block."""
    if not isinstance(block, dict):
        raise InputError(f"{where}: expected a block with a type, but received {block!r}")
    if not isinstance(block.get("type"), str):
        raise InputError(f"{where}.type is missing or not a text: received {block.get('type')!r}")
    return block["type"]


def registered(registry: Registry, where: str, name: str) -> Any:
    """What a name stands for in a registry of BasicSR."""
    for known in (name, f"{name}_basicsr"):
        if known in registry:
            return registry._obj_map[known]
    raise InputError(f"{where}: no {registry._name} is named {name!r}{suggest(name, registry.keys())}")


def check_name(where: str, name: str, known: Iterable[str], complaint: str) -> None:
    """Refuse a name that is not among those known."""
    if name not in known:
        raise InputError(f"{where}: {complaint} {name!r}{suggest(name, known)}")
