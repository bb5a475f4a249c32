"""A dataset's block: its loader, its roots, and whether the dataset can be opened."""

from __future__ import annotations

import contextlib
import copy
import io
import os
import warnings
from collections.abc import Sequence
from typing import Any

import cv2
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from PIL import Image

from nlcl_plugin.config.blocks import DatasetOptions
from nlcl_plugin.config.check_parts import build_once, registered, type_of
from nlcl_plugin.config.schema import check_known, check_numbers, check_schema, keys_in_source
from nlcl_plugin.data.image_dataset import ImageDataset
from nlcl_plugin.data.image_io import decode_raw, decode_stored, list_images, read_bytes
from nlcl_plugin.data.image_sources import is_lmdb, open_source
from nlcl_plugin.data.lmdb.store import LmdbImages
from nlcl_plugin.data.parallel import map_in_order
from nlcl_plugin.errors import InputError, rank_in_environment

KNOWN = ("basicsr.", "nlcl_plugin.")  # modules whose classes do what we know
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
        if dataset.get("use_shuffle") is False:
            warnings.warn(f"{where}.use_shuffle: is not read; training always shuffles", stacklevel=2)
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
            build_once(where, lambda: ImageDataset.__init__(cls.__new__(cls), copy.deepcopy(dataset)))
        return
    for key in ("dataroot_lq", "dataroot_gt"):
        root = dataset.get(key)
        if root is None:
            continue
        try:
            count_images(root, kind)
        except InputError as error:
            raise InputError(f"{where}.{key}: {error}") from error
    made = build_once(where, lambda: cls(copy.deepcopy(dataset)))
    if len(made) == 0:
        raise InputError(f"{where}: {dataset['type']} finds no image; correct its roots or its list of images")
    if dataset["phase"] != "train" and cls.__module__.startswith(KNOWN):
        _check_images(where, dataset, getattr(made, "paths", ()), ours=ours)


def _check_images(where: str, dataset: dict[str, Any], paths: Sequence[str | dict[str, str]], *, ours: bool) -> None:
    """See that the images of a validation are whole and those of a pair fit, before a training that may take days."""
    keys = ("lq", "gt") if dataset.get("dataroot_lq") else ("gt",)
    lmdbs = dataset["io_backend"]["type"] == "lmdb"
    sources = [open_source(dataset[f"dataroot_{key}"]) for key in keys if lmdbs and dataset.get(f"dataroot_{key}")]

    def size(path: str, place: int) -> tuple[int, int]:
        data = sources[place].read(path.removeprefix(f"{sources[place].root}/")) if lmdbs else read_bytes(path)
        whole = _size_of_png(data)
        if whole is not None:
            return whole
        image = decode_raw(data, path) if ours else decode_stored(data, path, cv2.IMREAD_COLOR)
        return image.shape[1], image.shape[0]

    def sizes(files: list[str]) -> list[tuple[int, int]]:
        return [size(path, place) for place, path in enumerate(files)]

    entries = [[entry[f"{key}_path"] for key in keys] if isinstance(entry, dict) else [entry] for entry in paths]
    scale = dataset["scale"]
    bar = None if rank_in_environment() == "0" else False
    found = map_in_order(sizes, entries, jobs=min(8, os.cpu_count() or 1), title=f"checking {where}", progress=bar)
    for files, ((width, height), *truth) in zip(entries, found, strict=True):
        for wide, high in truth:
            # BasicSR cuts off what the ground truth of a smaller image has beyond it.
            fits = wide >= width * scale and high >= height * scale if scale > 1 else (wide, high) == (width, height)
            if not fits:
                rule = f"the second must be {scale} times the first" if scale > 1 else "pairs must have one size"
                raise InputError(
                    f"{where}: {files[0]} is {width}×{height} and {files[1]} {wide}×{high}; {rule}: mend the pair or "
                    "take it out"
                )


def _size_of_png(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG whose checksums are right, without decoding it; None for all else."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        size, turned = image.size, "exif" in image.info
        image.verify()
        return None if turned else size
    return None


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


def channels_of(dataset: dict[str, Any]) -> int | None:
    """Channels of a dataset's images, None where that is up to a dataset of others."""
    if dataset["type"] in ("PairedImageDataset", "SingleImageDataset"):
        return 1 if dataset.get("color") == "y" else 3
    return 3 if issubclass(DATASET_REGISTRY.get(dataset["type"]), ImageDataset) else None


def count_images(root: str, kind: str) -> int:
    """Images of a folder or LMDB.

    Args:
        root: The folder.
        kind: `disk` or `lmdb`.

    Raises:
        InputError: If there are none, or the root is of the other kind.
    """
    if kind == "disk" and is_lmdb(root):
        raise InputError(f"{root}: this is an LMDB, and io_backend has 'type: disk'; set 'type: lmdb'")
    return len(LmdbImages(root).keys if kind == "lmdb" else list_images(root))


def is_plain_name(name: str) -> bool:
    """Whether files and folders can have a name in theirs."""
    return os.path.basename(name) == name and name not in ("", ".", "..") and len(os.fsencode(name)) <= 200


def is_below(root: Any, folder: str) -> bool:
    """Whether a root, or one of a list of them, lies in a folder."""
    roots = root if isinstance(root, list) else [root]
    full = os.path.realpath(folder)
    return any(isinstance(r, str) and os.path.realpath(os.path.expanduser(r)).startswith(full + os.sep) for r in roots)
