"""Check a whole option dict before anything is built: types, ranges, names and paths.

Unknown keys are refused in the blocks this package owns and in arguments of constructors, and warned about elsewhere.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import os
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)
from pydantic import ValidationError

from nlcl_plugin.data.image_dataset import ImageDataset
from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.data.lmdb_store import LmdbImages
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.optimization import BASICSR_SCHEDULERS, SCHEDULERS
from nlcl_plugin.models.unpaired_iteration import DECOMPOSITIONS

TOP_KEYS = {
    "name", "model_type", "scale", "num_gpu", "manual_seed", "find_unused_parameters", "datasets", "path", "train",
    "val", "logger", "dist_params", "decomposition", "demo_data", "deterministic",
}  # fmt: skip
LOADER_KEYS = {
    "name", "type", "phase", "scale", "io_backend", "num_worker_per_gpu", "batch_size_per_gpu", "use_shuffle",
    "dataset_enlarge_ratio", "prefetch_mode", "num_prefetch_queue", "pin_memory", "persistent_workers", "manual_seed",
}  # fmt: skip
VAL_KEYS = {"val_freq", "save_img", "pbar", "suffix", "metrics"}
REQUIRED = {"name": str, "model_type": str, "datasets": dict}
OPTIMIZERS = [name for name in dir(torch.optim) if name[0].isupper() and name != "Optimizer"]
PATH_KEYS = {"resume_state", "ignore_resume_networks", "experiments_root", "results_root", "models"} | {
    "training_states", "visualization", "log"
}  # fmt: skip
PATH_PREFIXES = ("pretrain_network_", "param_key_", "strict_load_")
LOGGER_KEYS = {"print_freq", "save_checkpoint_freq", "use_tb_logger", "wandb", "keep_checkpoints"}
DIST_KEYS = {"backend", "port", "timeout"}
FILLED_IN = {"ProjectionHeads": {"in_channels"}}  # arguments that the model adds


def check_shape(options: dict[str, Any], *, is_train: bool) -> None:
    """Check what must hold before the run-time fields can be added; drops datasets that are null.

    Args:
        options: Options as read.
        is_train: Train or test.

    Raises:
        InputError: Naming the key.
    """
    required = {**REQUIRED, "train": dict} if is_train else REQUIRED
    for key, kind in required.items():
        if not isinstance(options.get(key), kind):
            state = f"is {options[key]!r}" if key in options else "is missing"
            raise InputError(f"{key}: expected a {'block' if kind is dict else 'text'}, but it {state}")
    if os.path.basename(options["name"]) != options["name"] or options["name"] in ("", ".", ".."):
        raise InputError(f"name: must be a plain folder name, but received {options['name']!r}")
    for key in ("path", "val", "logger", "dist_params"):
        if options.get(key) is not None and not isinstance(options[key], dict):
            raise InputError(f"{key}: expected a block, but received {options[key]!r}")
    phases = ("train", "val") if is_train else ("test", "val")
    for name, dataset in list(options["datasets"].items()):
        if dataset is None:  # `datasets:val_2=~` on the command line takes a dataset out
            del options["datasets"][name]
            continue
        if not isinstance(dataset, dict):
            raise InputError(f"datasets.{name}: expected a block, but received {dataset!r}")
        if name.split("_")[0] not in phases or (name.startswith("train") and name != "train"):
            raise InputError(f"datasets.{name}: name a dataset {' or '.join(phases)}, more of them val_1, val_2 ...")
    if is_train and "train" not in options["datasets"]:
        raise InputError("datasets.train is missing: training needs a dataset of this name")
    if not options["datasets"]:
        raise InputError("datasets is empty: name at least one dataset test")


def check(options: dict[str, Any]) -> None:
    """Check completed options.

    Args:
        options: Options after `engine.options.complete`.

    Raises:
        InputError: In one line, naming the key, what was received and what to do.
    """
    model = _registered(MODEL_REGISTRY, "model_type", options["model_type"])
    ours = getattr(model, "train_options", None)
    networks = {key for key in options if key.startswith("network_")}
    known = TOP_KEYS | networks | {"is_train", "auto_resume", "root_path", "dist", "rank", "world_size"}
    _unknown("", options, known, refuse=ours is not None)
    if not isinstance(options["num_gpu"], int) or options["num_gpu"] < 0:
        raise InputError(f"num_gpu: expected auto, 0 (CPU) or a count, but received {options['num_gpu']!r}")
    if options["num_gpu"] > 0 and not torch.cuda.is_available():
        raise InputError(f"num_gpu: {options['num_gpu']} asked for, but no GPU is there; use num_gpu: 0 or auto")
    if ours is not None and options.get("decomposition") not in (None, *DECOMPOSITIONS):
        raise InputError(
            f"decomposition: expected one of {', '.join(DECOMPOSITIONS)}, but received {options['decomposition']!r}"
        )
    for key in sorted(networks):
        _check_call(ARCH_REGISTRY, key, options[key])
    if options["is_train"]:
        _check_numbers("train", options["train"])
        if ours is not None:
            _check_schema(ours, options["train"], "train")
        elif options["train"].get("nlcl_opt") is not None:
            _check_mixed(model, options["train"]["nlcl_opt"])
    if options["is_train"]:
        if "total_iter" not in options["train"]:
            raise InputError("train.total_iter is missing: give the number of iterations")
        for key, block in options["train"].items():
            if key.startswith("optim_") and block is not None:
                names = OPTIMIZERS if ours is not None else ["Adam"]
                _check_name(f"train.{key}.type", _type_of(f"train.{key}", block), names, "torch.optim has no")
            if key == "scheduler":
                names = list(SCHEDULERS if ours is not None else BASICSR_SCHEDULERS)
                _check_name(f"train.{key}.type", _type_of(f"train.{key}", block), names, "no scheduler is named")
            if key.endswith("_opt") and isinstance(block, dict) and "type" in block:
                _check_call(LOSS_REGISTRY, f"train.{key}", _loss_arguments(block, ours is not None))
        restorer = options["train"].get("restorer_opt")
        for key in ("pixel_opt", "composite_opt") if ours is not None and isinstance(restorer, dict) else ():
            if restorer.get(key):
                _check_call(LOSS_REGISTRY, f"train.restorer_opt.{key}", _loss_arguments(restorer[key], True))
    paths = PATH_KEYS | {key for key in options["path"] if key.startswith(PATH_PREFIXES)}
    for block, known in (("path", paths), ("logger", LOGGER_KEYS), ("dist_params", DIST_KEYS), ("val", VAL_KEYS)):
        _unknown(f"{block}.", options.get(block) or {}, known, refuse=ours is not None)
    if (options.get("logger") or {}).get("keep_checkpoints") is not None:
        _check_count("logger.keep_checkpoints", options["logger"]["keep_checkpoints"])
    if not isinstance(options.get("deterministic", False), bool):
        raise InputError(f"deterministic: expected true or false, but received {options['deterministic']!r}")
    for where in ("logger.print_freq", "logger.save_checkpoint_freq", "val.val_freq"):
        block, key = where.split(".")
        if options.get(block):
            _check_count(where, options[block].get(key, 1))
    metrics = (options.get("val") or {}).get("metrics") or {}
    if not isinstance(metrics, dict):
        raise InputError(f"val.metrics: expected a block with a block for each metric, but received {metrics!r}")
    for name, metric in metrics.items():
        _check_metric(f"val.metrics.{name}", metric)
    for name, dataset in options["datasets"].items():
        _check_dataset(f"datasets.{name}", dataset)


def _check_count(where: str, value: Any) -> None:
    # 5e3 is a float that means a count
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1 or value != int(value):
        raise InputError(f"{where}: expected a whole number of at least 1, but received {value!r}")


def _check_metric(where: str, metric: Any) -> None:
    function = _registered(METRIC_REGISTRY, f"{where}.type", _type_of(where, metric))
    for key, parameter in inspect.signature(function).parameters.items():
        needed = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if needed and key not in ("img", "img2") and key not in metric:
            raise InputError(f"{where}.{key} is missing: {metric['type']} needs it")


def _check_dataset(where: str, dataset: dict[str, Any]) -> None:
    cls = _registered(DATASET_REGISTRY, f"{where}.type", _type_of(where, dataset))
    if isinstance(cls, type) and issubclass(cls, ImageDataset):
        _unknown(f"{where}.", dataset, LOADER_KEYS | set(cls.OPTION_KEYS), refuse=True)
    _check_numbers(where, dataset)
    if not isinstance(dataset["name"], str):
        raise InputError(f"{where}.name: expected a text, but received {dataset['name']!r}; put it in quotes")
    if dataset["phase"] == "train":
        ratio = dataset.get("dataset_enlarge_ratio", 1)
        if not isinstance(ratio, int | float) or ratio <= 0:
            raise InputError(f"{where}.dataset_enlarge_ratio: expected a number above 0, but received {ratio!r}")
        for key, default in (("batch_size_per_gpu", None), ("num_worker_per_gpu", 0)):
            value = dataset.setdefault(key, default) if default is not None else dataset.get(key)
            if not isinstance(value, int) or value < (1 if default is None else 0):
                raise InputError(f"{where}.{key}: expected a whole number, but received {value!r}")
    if dataset.get("num_prefetch_queue") is not None:
        _check_count(f"{where}.num_prefetch_queue", dataset["num_prefetch_queue"])
    prefetch = dataset.get("prefetch_mode")
    if prefetch not in (None, "cpu", "cuda"):
        raise InputError(f"{where}.prefetch_mode: expected cpu, cuda or ~, but received {prefetch!r}")
    if prefetch == "cpu" and dataset.get("persistent_workers"):
        raise InputError(f"{where}: prefetch_mode: cpu with persistent_workers: true hangs for ever; drop one of them")
    if prefetch == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{where}.prefetch_mode: cuda needs a GPU, and none is there; use ~ or cpu")
    if dataset.get("persistent_workers") and not dataset.get("num_worker_per_gpu"):
        raise InputError(f"{where}.persistent_workers: needs num_worker_per_gpu of at least 1")
    backend = dataset["io_backend"]
    kind = backend.get("type") if isinstance(backend, dict) else backend
    if kind not in ("disk", "lmdb"):
        raise InputError(f"{where}.io_backend.type: expected disk or lmdb, but received {kind!r}")
    for key in ("dataroot_lq", "dataroot_gt"):
        root = dataset.get(key)
        if root is None:
            continue
        try:
            _ = LmdbImages(root) if kind == "lmdb" else list_images(root)
        except InputError as error:
            raise InputError(f"{where}.{key}: {error}") from error
    _try(where, cls, copy.deepcopy(dataset))


def _try(where: str, cls: Any, *args: Any, **kwargs: Any) -> None:
    """Construct something cheap once, so that what its constructor refuses is told by the name of its block."""
    try:
        cls(*args, **kwargs)
    except KeyError as error:
        raise InputError(f"{where}.{error.args[0]} is missing: {cls.__name__} needs it") from error
    except InputError as error:
        raise InputError(f"{where}.{error}") from error  # our datasets name the key first
    except (ValueError, TypeError, AssertionError, OSError, RuntimeError) as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from error


def _check_mixed(model: Any, block: Any) -> None:
    """Check the block that `NLCLMixin` reads."""
    where = "train.nlcl_opt"
    if not hasattr(model, "mixed_options"):
        ready = f"NLCL{model.__name__}"
        advice = f"use {ready}" if ready in MODEL_REGISTRY else "give it to a class with NLCLMixin"
        warnings.warn(f"{where}: {model.__name__} ignores it; {advice}", stacklevel=2)
        return
    _check_schema(model.mixed_options, block, where)
    for key in ("layer_opt", "location_opt"):
        if block.get(key):
            arguments = {name: value for name, value in block[key].items() if name != "sampling"}
            _check_call(LOSS_REGISTRY, f"{where}.{key}", arguments)
    if block.get("optim_p"):
        _check_name(f"{where}.optim_p.type", block["optim_p"]["type"], OPTIMIZERS, "torch.optim has no")


def _check_schema(schema: Any, block: Any, block_name: str) -> None:
    try:
        schema.model_validate(block)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (block_name, *first["loc"]))
        if first["type"] == "extra_forbidden":
            fields = _fields_at(schema, first["loc"][:-1])
            raise InputError(f"{where}: unknown option{_suggest(str(first['loc'][-1]), fields)}") from error
        message = first["msg"].removeprefix("Value error, ")
        received = first["input"]
        shown = f", but received {received!r}" if not isinstance(received, dict) else ""
        raise InputError(f"{where}: {message[0].lower() + message[1:]}{shown}") from error


def _fields_at(schema: Any, path: Iterable[Any]) -> list[str]:
    """Names of the fields of the block that a pydantic error points into."""
    for part in path:
        field = schema.model_fields.get(part) if hasattr(schema, "model_fields") else None
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        schema = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return list(schema.model_fields) if schema is not None else []


def _loss_arguments(block: dict[str, Any], ours: bool) -> dict[str, Any]:
    return {k: v for k, v in block.items() if not (ours and k in ("ramp_iter", "sampling"))}


def _check_call(registry: Registry, where: str, block: Any) -> None:
    """Check a block against the constructor that it will be given to."""
    name = _type_of(where, block)
    cls = _registered(registry, f"{where}.type", name)
    parameters = inspect.signature(cls).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    given = set(block) - {"type"}
    for key in sorted(given - set(parameters)):
        raise InputError(f"{where}.{key}: {name} has no such option{_suggest(key, parameters)}")
    needed = {key for key, p in parameters.items() if p.default is inspect.Parameter.empty}
    for key in sorted(needed - given - FILLED_IN.get(name, set())):
        raise InputError(f"{where}.{key} is missing: {name} needs it")
    if cls.__module__.startswith("nlcl_plugin.") and name not in FILLED_IN:
        _try(where, cls, **{key: value for key, value in block.items() if key != "type"})


def _type_of(where: str, block: Any) -> str:
    if not isinstance(block, dict):
        raise InputError(f"{where}: expected a block with a type, but received {block!r}")
    if not isinstance(block.get("type"), str):
        raise InputError(f"{where}.type is missing or not a text: received {block.get('type')!r}")
    return block["type"]


def _registered(registry: Registry, where: str, name: str) -> Any:
    for known in (name, f"{name}_basicsr"):
        if known in registry:
            return registry._obj_map[known]
    raise InputError(f"{where}: no {registry._name} is named {name!r}{_suggest(name, registry.keys())}")


def _check_name(where: str, name: str, known: Iterable[str], complaint: str) -> None:
    if name not in known:
        raise InputError(f"{where}: {complaint} {name!r}{_suggest(name, known)}")


def _unknown(where: str, block: dict[str, Any], known: Iterable[str], *, refuse: bool) -> None:
    for key in block:
        if key not in set(known):
            message = f"{where}{key}: unknown option{_suggest(key, known)}"
            if refuse:
                raise InputError(message)
            warnings.warn(message, stacklevel=2)


def _check_numbers(where: str, block: dict[str, Any]) -> None:
    """Catch numbers that YAML read as text, such as `1,5` or `2e-4x`, where a number is meant."""
    for key, value in block.items():
        if isinstance(value, dict):
            _check_numbers(f"{where}.{key}", value)
        elif isinstance(value, str) and key.rpartition("_")[2] in (
            "lr",
            "iter",
            "weight",
            "size",
            "gpu",
            "decay",
            "freq",
        ):
            raise InputError(f"{where}.{key}: expected a number, but received the text {value!r}")


def _suggest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
