"""A dataset's block: its loader, its roots, and whether the dataset can be opened."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from basicsr.utils.registry import DATASET_REGISTRY

from nlcl_plugin.data.image_dataset import ImageDataset
from nlcl_plugin.data.image_io import list_images
from nlcl_plugin.data.image_sources import open_source
from nlcl_plugin.data.lmdb_store import LmdbImages
from nlcl_plugin.engine.option_blocks import DatasetOptions
from nlcl_plugin.engine.schema_check import check_known, check_numbers, check_schema, keys_in_source
from nlcl_plugin.engine.validate_parts import registered, tried, type_of
from nlcl_plugin.errors import InputError

ROOTS = ("dataroot_lq", "dataroot_gt", "dataroot_rain")


def check_dataset(where: str, dataset: dict[str, Any], *, planned: str | None = None) -> None:
    """Check a completed block of a dataset and open the dataset once.

    Args:
        where: The block's name, such as `datasets.train`.
        dataset: The block.
        planned: Folder that is not there yet but will be made: roots in it are not looked at.

    Raises:
        InputError: Naming the key.
    """
    cls = registered(DATASET_REGISTRY, f"{where}.type", type_of(where, dataset))
    ours = isinstance(cls, type) and issubclass(cls, ImageDataset)
    known = {*DatasetOptions.model_fields, *(cls.OPTION_KEYS if ours else keys_in_source(cls))}
    check_known(f"{where}.", dataset, known, refuse=ours)
    check_numbers(where, dataset)
    if not isinstance(dataset["name"], str):
        raise InputError(f"{where}.name: expected a text, but received {dataset['name']!r}; put it in quotes")
    if not is_plain_name(dataset["name"]):
        raise InputError(f"{where}.name: must be a plain folder name, but received {dataset['name']!r}")
    if dataset["phase"] == "train":
        dataset.setdefault("num_worker_per_gpu", 0)
        if dataset.get("batch_size_per_gpu") is None:
            raise InputError(f"{where}.batch_size_per_gpu is missing: expected a whole number of at least 1")
    check_schema(DatasetOptions, dataset, where)
    _check_loader(where, dataset)
    kind = dataset["io_backend"].get("type")
    if kind not in ("disk", "lmdb"):
        raise InputError(f"{where}.io_backend.type: expected disk or lmdb, but received {kind!r}")
    if planned is not None and any(is_below(dataset.get(key), planned) for key in ROOTS):
        _check_others(where, dataset, planned)
        if ours:  # all that does not look at images
            tried(where, lambda: ImageDataset.__init__(cls.__new__(cls), copy.deepcopy(dataset)))
        return
    for key in ("dataroot_lq", "dataroot_gt"):
        root = dataset.get(key)
        if root is None:
            continue
        try:
            count_images(root, kind)
        except InputError as error:
            raise InputError(f"{where}.{key}: {error}") from error
    tried(where, lambda: cls(copy.deepcopy(dataset)))


def _check_others(where: str, dataset: dict[str, Any], planned: str) -> None:
    """Open the roots that lie elsewhere than those of the planned folder."""
    for key in ROOTS:
        roots = dataset.get(key)
        for root in roots if isinstance(roots, list) else [roots]:
            if isinstance(root, str) and not is_below(root, planned):
                try:
                    open_source(os.path.expanduser(root))
                except InputError as error:
                    raise InputError(f"{where}.{key}: {error}") from error


def _check_loader(where: str, dataset: dict[str, Any]) -> None:
    prefetch = dataset.get("prefetch_mode")
    if prefetch == "cpu" and dataset.get("persistent_workers"):
        raise InputError(f"{where}: prefetch_mode: cpu with persistent_workers: true hangs for ever; drop one of them")
    if prefetch == "cuda" and not torch.cuda.is_available():
        raise InputError(f"{where}.prefetch_mode: cuda needs a GPU, and none is there; use ~ or cpu")
    if dataset.get("persistent_workers") and not dataset.get("num_worker_per_gpu"):
        raise InputError(f"{where}.persistent_workers: needs num_worker_per_gpu of at least 1")


def count_images(root: str, kind: str) -> int:
    """Images of a folder or LMDB.

    Args:
        root: The folder.
        kind: `disk` or `lmdb`.

    Raises:
        InputError: If there are none.
    """
    return len(LmdbImages(root).keys if kind == "lmdb" else list_images(root))


def is_plain_name(name: str) -> bool:
    """Whether files and folders can have a name in theirs."""
    return os.path.basename(name) == name and name not in ("", ".", "..") and len(os.fsencode(name)) <= 200


def is_below(root: Any, folder: str) -> bool:
    """Whether a root, or one of a list of them, lies in a folder."""
    roots = root if isinstance(root, list) else [root]
    full = os.path.realpath(folder)
    return any(isinstance(r, str) and os.path.realpath(os.path.expanduser(r)).startswith(full + os.sep) for r in roots)
