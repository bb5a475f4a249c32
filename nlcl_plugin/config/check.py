"""Check an option file before anything is written: types, ranges, names and paths.

Unknown keys are refused in the blocks this package owns and in arguments of constructors, and warned about elsewhere.
"""

from __future__ import annotations

import os
import warnings
from typing import Annotated, Any

import torch
from basicsr.utils.registry import MODEL_REGISTRY
from pydantic import AfterValidator, BaseModel, create_model

from nlcl_plugin.config.blocks import (
    SETTINGS,
    NetworkBlock,
    NetworkPathOptions,
    PathOptions,
    StockTrainOptions,
    TopOptions,
)
from nlcl_plugin.config.check_datasets import check_dataset, check_dataset_keys
from nlcl_plugin.config.check_parts import check_loss, check_metric, check_network, registered
from nlcl_plugin.config.rehearsal import silence
from nlcl_plugin.config.schema import check_known, check_numbers, check_schema, keys_in_source
from nlcl_plugin.config.train_options import STAGE_ONE, LossBlock
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.weights import newest_checkpoint


def check_options(options: dict[str, Any], *, is_train: bool) -> None:
    """Check all values in one pass over the file; nothing is built.

    Args:
        options: Options as read, without nulls; a block `train.nlcl_opt` that the model ignores is taken out.
        is_train: Train or test.

    Raises:
        InputError: In one line, naming the key, what was received and what to do.
    """
    if not isinstance(options.get("model_type"), str):
        check_schema(TopOptions, options, "")
    model = registered(MODEL_REGISTRY, "model_type", options["model_type"])
    refuse = hasattr(model, "train_options")  # is ours
    for key, block in options.items():
        if isinstance(block, dict):
            check_numbers(key, block)
    checked: Any = check_schema(_schema(options, model, is_train), options, "", check_loss)
    read = set() if refuse else keys_in_source(model)
    _check_unknown("", checked, read, refuse=refuse)
    for key in ("path", "val", "logger", "dist_params"):
        _check_unknown(f"{key}.", getattr(checked, key), set(), refuse=refuse)
    for name, metric in options.get("val", {}).get("metrics", {}).items():
        check_metric(f"val.metrics.{name}", metric, refuse=refuse)
    _check_names_of_datasets(options["datasets"], is_train=is_train)
    for name, dataset in options["datasets"].items():
        check_dataset_keys(f"datasets.{name}", dataset, training=name == "train")
    if refuse:
        if checked.scale != 1:
            kept = f"{options['model_type']} keeps the size of images"
            raise InputError(f"scale: {kept}: expected 1, but received {checked.scale}")
        _warn_of_unused_optimizers(options.get("train", {}))
    else:
        for key in SETTINGS:
            if getattr(checked, key) and any(name != "train" for name in options["datasets"]):
                warnings.warn(f"{key}: {options['model_type']} validates and tests without it", stacklevel=3)
        if is_train:
            known = {*StockTrainOptions.model_fields, "nlcl_opt", *read}
            check_known("train.", options["train"], known, refuse=False)


def _schema(options: dict[str, Any], model: Any, is_train: bool) -> type[BaseModel]:
    """The schema of a whole file, which depends on its model and networks."""
    labels = [key.removeprefix("network_") for key in options if key.startswith("network_")]
    network = Annotated[NetworkBlock, AfterValidator(check_network)]
    networks: dict[str, Any] = {f"network_{label}": (network, ...) for label in labels}
    weights: dict[str, Any] = {
        f"{key}{label}": (field.annotation, None)
        for key, field in NetworkPathOptions.model_fields.items()
        for label in labels
    }
    path: Any = create_model("Path", __base__=PathOptions, **weights)
    train: Any = getattr(model, "train_options", None) or _stock_train_schema(options, model)
    own: dict[str, Any] = {"train": (train, ...)} if is_train else {}
    return create_model("OptionFile", __base__=TopOptions, path=(path | None, None), **networks, **own)


def _stock_train_schema(options: dict[str, Any], model: Any) -> type[BaseModel]:
    train = options.get("train")
    if not isinstance(train, dict):
        return StockTrainOptions
    blocks: dict[str, Any] = {
        key: (LossBlock, ...)
        for key, block in train.items()
        if key.endswith("_opt") and key != "nlcl_opt" and isinstance(block, dict) and "type" in block
    }
    takes_addon = hasattr(model, "addon_options")
    if ("nlcl_opt" in train or takes_addon) and "optim_p" in train and "optim_p" not in keys_in_source(model):
        raise InputError("train.optim_p: nothing reads it in this model; its place is train.nlcl_opt.optim_p")
    if takes_addon:
        blocks["nlcl_opt"] = (model.addon_options | None, None)
    elif train.pop("nlcl_opt", None) is not None:
        ready = f"NLCL{model.__name__}"
        advice = f"use {ready}" if ready in MODEL_REGISTRY else "give it to a class with NLCLMixin"
        warnings.warn(f"train.nlcl_opt: {model.__name__} ignores it; {advice}", stacklevel=4)
    return create_model("StockTrain", __base__=StockTrainOptions, **blocks)


def _check_unknown(where: str, block: BaseModel | None, known: set[str], *, refuse: bool) -> None:
    if block is not None:
        check_known(where, block.model_extra or {}, {*type(block).model_fields, *known}, refuse=refuse)


def _warn_of_unused_optimizers(train: dict[str, Any]) -> None:
    """Not refused, as `--force_yml train:gan_opt=~` on a whole file leaves its optimizer behind."""
    users = {"optim_d": ("gan_opt",), "optim_p": ("layer_opt", "location_opt"), "optim_s": ("restorer_opt",)}
    for key, blocks in {"optim_g": STAGE_ONE, **users}.items():
        if key in train and not any(block in train for block in blocks):
            warnings.warn(f"train.{key}: is not used, as there is no {' or '.join(blocks)}", stacklevel=3)


def _check_names_of_datasets(datasets: dict[str, Any], *, is_train: bool) -> None:
    phases = ("train", "val") if is_train else ("test", "val")
    for name in datasets:
        if name.split("_")[0] not in phases or (name.startswith("train") and name != "train"):
            raise InputError(f"datasets.{name}: name a dataset {' or '.join(phases)}, more of them val_1, val_2 ...")
    if is_train and "train" not in datasets:
        raise InputError("datasets.train is missing: training needs a dataset of this name")
    if not datasets:
        raise InputError("datasets is empty: name at least one dataset test")


@silence()
def check_data(options: dict[str, Any], *, planned: str | None = None) -> None:
    """Check what options refer to: GPUs, weights and images.

    Args:
        options: Checked options after `config.option_files.complete`; files take the place of folders of checkpoints.
        planned: Folder that is not there yet but will be made: datasets in it are not opened.

    Raises:
        InputError: In one line, naming the key, what was received and what to do.
    """
    count, there = options["num_gpu"], torch.cuda.device_count() if torch.cuda.is_available() else 0
    of_all_machines = there and options.get("dist")  # with a launcher, the file may count those of all machines
    if count > there and not of_all_machines:
        advice = "or start processes on more machines with a --launcher" if there else "0 is the CPU"
        raise InputError(f"num_gpu: expected auto or at most {there}, but received {count}; {advice}")
    paths = options["path"]
    for key, value in paths.items():
        if value is not None and key.startswith(("pretrain_network", "resume_state")):
            paths[key] = newest_checkpoint(os.path.expanduser(value), key)
    for name, dataset in options["datasets"].items():
        check_dataset(f"datasets.{name}", dataset, planned=planned)
