"""A dataset's block: its keys, its roots, and whether the dataset can be opened."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import torch
from basicsr.utils.registry import DATASET_REGISTRY

from nlcl_plugin.config.blocks import DatasetOptions
from nlcl_plugin.config.check_parts import registered
from nlcl_plugin.config.schema import build_once, check_known, keys_in_source
from nlcl_plugin.data.image_dataset import ImageDataset
from nlcl_plugin.data.image_io import decode_raw, decode_stored, read_bytes
from nlcl_plugin.data.image_sources import is_lmdb, open_source
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError, rank_in_environment

KNOWN = ("basicsr.", "nlcl_plugin.")  # modules whose classes do what we know
ROOTS = ("dataroot_lq", "dataroot_gt", "dataroot_rain")


def check_dataset_keys(where: str, dataset: dict[str, Any], *, training: bool) -> None:
    """Check what the schema of a dataset's block leaves open: its type and keys; an InputError names the key."""
    cls = registered(DATASET_REGISTRY, f"{where}.type", dataset["type"])
    ours = _is_ours(cls)
    check_known(
        f"{where}.", dataset, {*DatasetOptions.model_fields, *(cls.OPTION_KEYS if ours else keys_in_source(cls))},
        refuse=ours,
    )  # fmt: skip
    if training and dataset.get("use_shuffle") is False:
        warnings.warn(f"{where}.use_shuffle: is not read; training always shuffles", stacklevel=2)
    if training and dataset.get("batch_size_per_gpu") is None:
        raise InputError(f"{where}.batch_size_per_gpu is missing: expected a whole number of at least 1")
    if dataset.get("prefetch_mode") == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{where}.prefetch_mode: cuda needs a GPU, and none is available; use ~ or cpu")


def check_dataset(where: str, dataset: dict[str, Any], *, planned: str | None = None) -> None:
    """Open the dataset of a completed block once, except in a folder that is planned; an InputError names the key."""
    cls = DATASET_REGISTRY.get(dataset["type"])
    ours = _is_ours(cls)
    kind = dataset["io_backend"]["type"]
    for key in ROOTS:
        roots = dataset.get(key)
        for root in roots if isinstance(roots, list) else [roots]:
            if not isinstance(root, str) or (planned is not None and is_below(root, planned)):
                continue
            if key != "dataroot_rain" and is_lmdb(root) != (kind == "lmdb"):
                found = "an LMDB" if is_lmdb(root) else "no folder that ends in .lmdb"
                raise InputError(f"{where}.{key}: {root}: this is {found}, and io_backend has 'type: {kind}'")
            try:
                open_source(root)
            except InputError as error:
                raise InputError(f"{where}.{key}: {error}") from error
    if planned is not None and any(is_below(dataset.get(key), planned) for key in ROOTS):
        if ours:  # all that does not look at images
            build_once(where, lambda: ImageDataset.__init__(cls.__new__(cls), copy.deepcopy(dataset)))
        return
    if dataset["phase"] != "train" and dataset.get("longest_side"):
        raise InputError(f"{where}.longest_side: is read in training only; give longest_side at the top of the file")
    if dataset["phase"] == "train" and dataset.get("longest_side") and not ours:
        raise InputError(f"longest_side: {dataset['type']} does not read it; make its images smaller, and remove it")
    made = build_once(where, lambda: cls(copy.deepcopy(dataset)))
    if len(made) == 0:
        raise InputError(f"{where}: {dataset['type']} finds no image; correct its roots or its list of images")
    if dataset["phase"] != "train" and cls.__module__.startswith(KNOWN):
        _check_images(where, dataset, getattr(made, "paths", ()), ours=ours)


def _is_ours(cls: Any) -> bool:
    return isinstance(cls, type) and issubclass(cls, ImageDataset)


def _check_images(where: str, dataset: dict[str, Any], paths: Sequence[str | dict[str, str]], *, ours: bool) -> None:
    """See that the images of a validation are whole and those of a pair fit, before a training that may take days."""
    keys = [key for key in ("lq", "gt") if dataset.get(f"dataroot_{key}")]
    lmdbs = dataset["io_backend"]["type"] == "lmdb"
    sources = [open_source(dataset[f"dataroot_{key}"]) for key in keys]

    def sizes(files: list[str]) -> list[tuple[int, int]]:
        found = []
        for source, path in zip(sources, files, strict=False):
            data = source.read(path.removeprefix(f"{source.root}/")) if lmdbs else read_bytes(path)
            image = decode_raw(data, path) if ours else decode_stored(data, path, cv2.IMREAD_COLOR)
            found.append((image.shape[1], image.shape[0]))
        return found

    entries = [[entry[f"{key}_path"] for key in keys] if isinstance(entry, dict) else [entry] for entry in paths]
    scale = dataset["scale"]
    shown = rank_in_environment() == "0"
    found = map_in_order(sizes, entries, jobs=min(8, os.cpu_count() or 1), title=f"checking {where}", progress=shown)
    for files, ((width, height), *truth) in zip(entries, found, strict=True):
        for wide, high in truth:
            # BasicSR cuts off what the ground truth of a smaller image has beyond it.
            fits = wide >= width * scale and high >= height * scale if scale > 1 else (wide, high) == (width, height)
            if not fits:
                rule = f"the second must be {scale} times the first" if scale > 1 else "pairs must have one size"
                raise InputError(
                    f"{where}: {files[0]} is {width}×{height} and {files[1]} {wide}×{high}; {rule}: correct the "
                    "pair or remove it"
                )


def is_below(root: Any, folder: str) -> bool:
    """Whether a root, or one of a list of them, is below a folder."""
    roots = root if isinstance(root, list) else [root]
    full = os.path.realpath(folder)
    return any(isinstance(r, str) and os.path.realpath(os.path.expanduser(r)).startswith(full + os.sep) for r in roots)
