"""What our datasets have in common: options that are checked, images of folders and LMDBs, a cache, skipping."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from nlcl_plugin.data.crops import random_crop
from nlcl_plugin.data.image_io import decode_raw, to_tensor
from nlcl_plugin.data.image_sources import ImageSource, is_lmdb, open_source
from nlcl_plugin.errors import InputError


class ImageDataset(Dataset[dict[str, Any]]):
    """The base of our datasets, which refuse unknown and wrong options.

    Args:
        opt: The options; those read here:

            - phase (str): `train`, `val` or `test`.
            - scale (int): 1 or absent.
            - manual_seed, or seed (int): The seed. Default: 0.
            - cache (bool): Keep all decoded images in the memory of each process. Default: False.
            - on_error (str): `raise` (the default) or `skip`, for training.
            - gt_size (int): The side of the square crop, for training only.
            - use_hflip, use_vflip, use_rot (bool): Flips of the crop, for training only. Default: False.

    Raises:
        InputError: If an option is missing or wrong.

    Attributes:
        opt: The options, as given.
        OPTION_KEYS: The keys that the class knows.
    """

    OPTION_KEYS: ClassVar[tuple[str, ...]] = (
        "name",
        "type",
        "phase",
        "scale",
        "dataroot_gt",
        "io_backend",
        "gt_size",
        "use_hflip",
        "use_vflip",
        "use_rot",
        "manual_seed",
        "seed",
        "cache",
        "on_error",
    )
    PHASES: ClassVar[tuple[str, ...]] = ("train", "val", "test")

    def __init__(self, opt: dict[str, Any]) -> None:
        """Check the options."""
        self.opt = opt
        if opt.get("phase") not in self.PHASES:
            *others, last = map(repr, self.PHASES)
            raise self._wrong("phase", f"{', '.join(others)} or {last}" if others else last)
        self._training = opt["phase"] == "train"
        if opt.get("scale") not in (None, 1):
            raise self._wrong("scale", "1, as derained images keep their size; remove the key")
        seed_key = "manual_seed" if opt.get("manual_seed") is not None else "seed"
        self._seed = self._integer(seed_key, minimum=0, default=0)
        if opt.get("on_error") not in (None, "raise", "skip"):
            raise self._wrong("on_error", "'raise' or 'skip'")
        self._skips = opt.get("on_error") == "skip" and self._training
        self._cache: dict[tuple[str, bool], np.ndarray] | None = {} if self._flag("cache") else None
        if self._training:
            self._crop_size = self._integer("gt_size", minimum=1)
            self._flips = {key: self._flag(f"use_{key}") for key in ("hflip", "vflip", "rot")}

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached images behind on the way to a loader worker."""
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    # images -----------------------------------------------------------------------------------------------------------
    def _load_from(
        self, source: ImageSource, position: int, skipped: list[str], *, keep_grey: bool = False
    ) -> tuple[np.ndarray, str]:
        """Load the image at a position, or the next readable one; its path comes with it."""
        count = len(source.names)
        for attempt in range(count if self._skips else 1):
            name = source.names[(position + attempt) % count]
            path = os.path.join(source.root, name)
            try:
                return self._load(source, name, keep_grey), path
            except InputError:
                if not self._skips:
                    raise
                skipped.append(path)
        raise InputError(f"{source.root}: none of its {count} images can be read")

    def _load(self, source: ImageSource, name: str, keep_grey: bool) -> np.ndarray:
        path = os.path.join(source.root, name)
        if self._cache is None:
            return decode_raw(source.read(name), path, keep_grey=keep_grey)
        key = path, keep_grey
        if key not in self._cache:
            self._cache[key] = decode_raw(source.read(name), path, keep_grey=keep_grey)
        return self._cache[key]

    def _augment(self, image: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        return to_tensor(random_crop(image, self._crop_size, rng, **self._flips))

    def _with_skipped(self, sample: dict[str, Any], skipped: list[str]) -> dict[str, Any]:
        # Text, as a loader makes batches of it whatever its length.
        return {**sample, "skipped": "\n".join(skipped)} if self._skips else sample

    # options ----------------------------------------------------------------------------------------------------------
    def _open(self, key: str) -> ImageSource:
        backend = self.opt.get("io_backend", {"type": "disk"})
        kind = backend.get("type") if isinstance(backend, dict) else backend
        if not isinstance(backend, dict) or kind not in ("disk", "lmdb"):
            raise self._wrong("io_backend", "a block with 'type: disk' or 'type: lmdb'")
        root = self.opt.get(key)
        if not isinstance(root, str | os.PathLike) or not os.fspath(root):
            raise self._wrong(key, "the path of a folder of images or of an LMDB")
        root = os.path.normpath(os.path.expanduser(root))
        if kind == "lmdb" and not is_lmdb(root):
            raise self._wrong(key, "a folder that ends in .lmdb, as io_backend has 'type: lmdb'; change one of the two")
        if kind == "disk" and is_lmdb(root):
            raise self._wrong(key, "a folder of images, as io_backend has 'type: disk'; set 'type: lmdb' for an LMDB")
        return open_source(root)

    def _integer(self, key: str, minimum: int, default: int | None = None) -> int:
        value = self.opt.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self._wrong(key, f"a whole number of at least {minimum}")
        return value

    def _flag(self, key: str) -> bool:
        value = self.opt.get(key)
        if not isinstance(value, bool | None):
            raise self._wrong(key, "true or false")
        return bool(value)

    def _wrong(self, key: str, expected: str) -> InputError:
        received = f"got {self.opt[key]!r}" if self.opt.get(key) is not None else "it is missing"
        return InputError(f"{key}: {received}, expected {expected}")
