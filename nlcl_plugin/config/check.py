"""Check a whole option dict before anything is written: types, ranges, names and paths.

Unknown keys are refused in the blocks this package owns and in arguments of constructors, and warned about elsewhere.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import torch
from basicsr.models.stylegan2_model import StyleGAN2Model
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY

from nlcl_plugin.config.blocks import (
    DistOptions,
    LoggerOptions,
    NetworkPathOptions,
    PathOptions,
    StockTrainOptions,
    TopOptions,
    ValOptions,
)
from nlcl_plugin.config.check_datasets import KNOWN, channels_of, check_dataset, is_plain_name
from nlcl_plugin.config.check_parts import (
    check_loss,
    check_metric,
    check_network,
    check_optimizer,
    check_schedule,
    check_stock_limits,
    check_stock_optimizers,
    check_stock_schedule,
    registered,
)
from nlcl_plugin.config.option_files import FOLDERS
from nlcl_plugin.config.rehearsal import silence
from nlcl_plugin.config.schema import check_known, check_numbers, check_schema, keys_in_source
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.weights import newest_checkpoint

REQUIRED = {"name": str, "model_type": str, "datasets": dict}
RUN_TIME = {"is_train", "auto_resume", "root_path", "dist", "rank", "world_size"}  # keys that a start adds
BLOCKS = {"path": PathOptions, "logger": LoggerOptions, "dist_params": DistOptions, "val": ValOptions}


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
    if not is_plain_name(options["name"]):
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
    # Needed before the rest is checked: for the seed of a run, and for the demo data that datasets are looked for in.
    for key, simple, expected in (("manual_seed", int, "a whole number"), ("demo_data", str, "a folder")):
        if options.get(key) is not None and (type(options[key]) is not simple or options[key] == ""):
            raise InputError(f"{key}: expected {expected}, but received {options[key]!r}")


@silence()
def check(options: dict[str, Any], *, planned: str | None = None) -> dict[str, int]:
    """Check completed options.

    Args:
        options: Options after `config.option_files.complete`.
        planned: Folder that is not there yet but will be made: datasets in it are not opened.

    Returns:
        The number of parameters of each network, by its key, but of those whose arguments the model fills in.

    Raises:
        InputError: In one line, naming the key, what was received and what to do.
    """
    _find_checkpoints(options["path"])
    model = registered(MODEL_REGISTRY, "model_type", options["model_type"])
    ours = getattr(model, "train_options", None)
    networks = sorted(key for key in options if key.startswith("network_"))
    theirs = keys_in_source(model) if ours is None else set()
    top = set(TopOptions.model_fields) - ({"decomposition"} if ours is None else set())
    check_known("", options, {*top, *networks, *RUN_TIME, *theirs}, refuse=ours is not None)
    _check_gpus(options["num_gpu"], dist=options.get("dist", False))
    check_schema(TopOptions, options, "")
    if ours is not None and options["scale"] != 1:
        raise InputError(
            f"scale: {options['model_type']} keeps the size of images: expected 1, but received {options['scale']}"
        )
    sizes = {key: check_network(key, options[key]) for key in networks}
    if options["is_train"]:
        _check_train(options["train"], model, ours)
    for name, schema in BLOCKS.items():
        each = {f"{kind}{key.removeprefix('network_')}" for kind in NetworkPathOptions.model_fields for key in networks}
        known = {*each, *FOLDERS} if name == "path" else set()
        _check_block(name, options.get(name) or {}, schema, known, refuse=ours is not None)
    for name, metric in ((options.get("val") or {}).get("metrics") or {}).items():
        check_metric(f"val.metrics.{name}", metric, refuse=ours is not None)
    if ours is None:
        check_stock_limits(model, options)
    for name, dataset in options["datasets"].items():
        check_dataset(f"datasets.{name}", dataset, planned=planned)
    if model.__module__.startswith(KNOWN):
        takes_images = {"network_g"} if ours is None else {"network_g", "network_r", "network_s", "network_d"}
        for key in sorted(takes_images & set(networks)):
            _check_channels(key, options[key], options["datasets"])
    return {key: size for key, size in sizes.items() if size is not None}


def _find_checkpoints(paths: dict[str, Any]) -> None:
    """Put files in the place of folders of checkpoints."""
    for key, value in paths.items():
        if value is not None and ("pretrain_network" in key or "resume_state" in key):
            if not isinstance(value, str):
                raise InputError(f"path.{key}: expected a path, but received {value!r}")
            paths[key] = newest_checkpoint(os.path.expanduser(value), key)


def _check_channels(key: str, network: dict[str, Any], datasets: dict[str, Any]) -> None:
    """Check the channels that a network is made for, if it and all datasets are known."""
    received = {name: channels_of(dataset) for name, dataset in datasets.items()}
    if None in received.values() or not registered(ARCH_REGISTRY, key, network["type"]).__module__.startswith(KNOWN):
        return
    for argument in {"num_in_ch", "in_chans"} & set(network):
        for name, channels in received.items():
            if network[argument] != channels:
                raise InputError(
                    f"{key}.{argument}: expected {channels}, the channels of the images of datasets.{name}, but "
                    f"received {network[argument]!r}"
                )


def _check_gpus(count: Any, *, dist: bool) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise InputError(f"num_gpu: expected auto, 0 (CPU) or a count, but received {count!r}")
    if count > 0 and not torch.cuda.is_available():
        raise InputError(f"num_gpu: {count} asked for, but no GPU is there; use num_gpu: 0 or auto")
    there = torch.cuda.device_count()
    if count > there and not dist:  # with a launcher, the file may count those of all machines
        raise InputError(
            f"num_gpu: {count} asked for, but this machine has {there}; use num_gpu: {there} or auto, or start "
            "processes on more machines with a --launcher"
        )


def _check_block(name: str, block: dict[str, Any], schema: Any, known: set[str], *, refuse: bool) -> None:
    # Keys of one network each, such as pretrain_network_g.
    kinds = {key: kind for kind in NetworkPathOptions.model_fields for key in block if key.startswith(kind)}
    own = kinds if name == "path" else {}
    check_known(f"{name}.", block, {*schema.model_fields, *own, *known}, refuse=refuse)
    check_schema(schema, block, name)
    for key, kind in own.items():
        if kind == "pretrain_network_" and key not in known and block[key] is not None:
            network = key.removeprefix("pretrain_")
            raise InputError(f"{name}.{key}: there is no {network}; add the block of that network, or leave this out")
        try:
            check_schema(NetworkPathOptions, {kind: block[key]}, name)
        except InputError as error:
            raise InputError(str(error).replace(f".{kind}:", f".{key}:", 1)) from error
    check_numbers(name, block)


def _check_train(train: dict[str, Any], model: Any, ours: Any) -> None:
    check_numbers("train", train)
    if ours is None:
        mixed = "nlcl_opt" in train or hasattr(model, "addon_options")
        if mixed and "optim_p" in train and "optim_p" not in keys_in_source(model):
            raise InputError(
                "train.optim_p: nothing reads it in this model; it goes into the block as train.nlcl_opt.optim_p"
            )
        check_known(
            "train.", train, {*StockTrainOptions.model_fields, "nlcl_opt", *keys_in_source(model)}, refuse=False
        )
    check_schema(ours or StockTrainOptions, train, "train")
    if ours is None and train.get("nlcl_opt") is not None:
        _check_addon(model, train)
    optimizer = None
    for key, block in train.items():
        if ours is not None and key.startswith("optim_") and block is not None:
            made = check_optimizer(f"train.{key}", block)
            optimizer = optimizer or made
        if key.endswith("_opt") and isinstance(block, dict) and "type" in block:
            check_loss(f"train.{key}", _loss_arguments(block, ours is not None))
    if ours is None:
        check_stock_optimizers(model, train)
        check_stock_schedule(model, train.get("scheduler"))
    else:
        _warn_of_unused_optimizers(train)
    if ours is not None and train.get("scheduler") is not None and optimizer is not None:
        check_schedule(train["scheduler"], optimizer, int(train["total_iter"]))
    restorer = (train.get("restorer_opt") if ours is not None else None) or {}
    for key in ("pixel_opt", "composite_opt"):
        if restorer.get(key):
            check_loss(f"train.restorer_opt.{key}", _loss_arguments(restorer[key], True))


def _warn_of_unused_optimizers(train: dict[str, Any]) -> None:
    """Not refused, as `--force_yml train:gan_opt=~` on a whole file leaves its optimizer behind."""
    users = {"optim_d": ("gan_opt",), "optim_p": ("layer_opt", "location_opt"), "optim_s": ("restorer_opt",)}
    for key, blocks in users.items():
        if train.get(key) and not any(train.get(block) for block in blocks):
            warnings.warn(f"train.{key}: is not used, as there is no {' or '.join(blocks)}", stacklevel=2)


def _check_addon(model: Any, train: dict[str, Any]) -> None:
    """Check the block that `NLCLMixin` reads."""
    where, block = "train.nlcl_opt", train["nlcl_opt"]
    if not hasattr(model, "addon_options"):
        ready = f"NLCL{model.__name__}"
        advice = f"use {ready}" if ready in MODEL_REGISTRY else "give it to a class with NLCLMixin"
        if issubclass(model, VideoBaseModel | StyleGAN2Model):
            advice = "it compares an image with what it was made from, which no step of this model does: take it out"
        warnings.warn(f"{where}: {model.__name__} ignores it; {advice}", stacklevel=2)
        del train["nlcl_opt"]  # what is ignored is not shown among the losses
        return
    check_schema(model.addon_options, block, where)
    for key in ("layer_opt", "location_opt"):
        if block.get(key):
            check_loss(f"{where}.{key}", _loss_arguments(block[key], True))
    if block.get("optim_p"):
        check_optimizer(f"{where}.optim_p", block["optim_p"])


def _loss_arguments(block: dict[str, Any], ours: bool) -> dict[str, Any]:
    return {k: v for k, v in block.items() if not (ours and k in ("ramp_iter", "sampling"))}
