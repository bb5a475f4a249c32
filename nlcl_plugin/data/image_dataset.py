"""What our datasets have in common: options that are checked, images of folders and LMDBs, crops, a cache, skipping."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset

from nlcl_plugin.data.image_io import SHORTEST_LIMIT, decode_raw, shrink, to_tensor
from nlcl_plugin.data.image_sources import ImageSource, is_lmdb, open_source
from nlcl_plugin.errors import InputError


class ImageDataset(Dataset[dict[str, Any]]):
    """The base of our datasets: the images of a folder or an LMDB, each with what belongs to it.

    Args:
        opt: The options; those read here, where None means the default:

            - phase (str): `train`, `val` or `test`.
            - scale (int): 1, as derained images keep their size.
            - manual_seed, or seed (int): The seed. Default: 0.
            - io_backend (dict): `type: disk` (the default) or `type: lmdb`, for the images but not the rain.
            - cache (bool): Keep all decoded images in the memory of each process. Default: False. For small sets;
              loader workers each fill a cache of their own, so use it with `num_worker_per_gpu: 0` or with
              `persistent_workers: true`.
            - on_error (str): `raise` (the default), or `skip`: in training, the next image takes the place of one that
              cannot be read, and the sample names it in `skipped`.
            - longest_side (int): In training, images with a longer side are made smaller to it before they are cropped,
              so that streaks are as wide in all of them; in pixels, at least 64. Default: images as they are.
            - gt_size (int): The side of the square crop, for training only. Smaller images are continued by reflection.
            - use_hflip, use_vflip, use_rot (bool): Mirror the crop left-right, upside down, transpose it, each half of
              the time, for training only. Default: False. Rain falls downwards: the last two also teach rain that
              does not.

            Others, such as the loader's, are left alone.

    Raises:
        InputError: If an option is missing or wrong.

    Attributes:
        opt: The options, as given.
        paths: The path of each image; in an LMDB, the LMDB's path and the key.
        OPTION_KEYS: The keys that the class knows.
    """

    OPTION_KEYS: ClassVar[tuple[str, ...]] = (
        *("name", "type", "phase", "scale", "dataroot_gt", "io_backend", "manual_seed", "seed", "cache", "on_error"),
        *("longest_side", "gt_size", "use_hflip", "use_vflip", "use_rot"),
    )
    PHASES: ClassVar[tuple[str, ...]] = ("train", "val", "test")
    paths: list[str]

    def __init__(self, opt: dict[str, Any]) -> None:
        self.opt = opt
        self._choice("phase", *self.PHASES)
        self._choice("scale", 1, None)
        self._choice("on_error", "raise", "skip", None)
        self._training = opt["phase"] == "train"
        seed_key = "manual_seed" if opt.get("manual_seed") is not None else "seed"
        self._seed = self._integer(seed_key, minimum=0, default=0)
        self._skips = opt.get("on_error") == "skip" and self._training
        self._cache: dict[tuple[str, bool], np.ndarray] | None = {} if self._flag("cache") else None
        if self._training:
            self._longest_side = self._integer("longest_side", minimum=SHORTEST_LIMIT, default=0)
            self._crop_size = self._integer("gt_size", minimum=1)
            self._flips = {key: self._flag(f"use_{key}") for key in ("hflip", "vflip", "rot")}

    def __len__(self) -> int:
        return len(self.paths)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached images behind on the way to a loader worker."""
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    # images -----------------------------------------------------------------------------------------------------------
    def _check_index(self, index: int) -> None:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")  # what ends a plain loop over the dataset

    def _load_from(
        self, source: ImageSource, position: int, skipped: list[str], *, keep_grey: bool = False
    ) -> tuple[np.ndarray, str]:
        """Load the image at a position, or the next readable one; its path comes with it."""
        count = len(source.names)
        for attempt in range(count if self._skips else 1):
            name = source.names[(position + attempt) % count]
            path = os.path.join(source.root, name)
            key = path, keep_grey
            try:
                image = self._cache.get(key) if self._cache is not None else None
                if image is None:
                    image = decode_raw(source.read(name), path, keep_grey=keep_grey)
                    image = shrink(image, self._longest_side) if self._training else image
                if self._cache is not None:
                    self._cache[key] = image
                return image, path
            except InputError:
                if not self._skips:
                    raise
                skipped.append(path)
        raise InputError(f"{source.root}: none of its {count} images can be read")

    def _augment(self, image: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        return to_tensor(random_crop(image, self._crop_size, rng, **self._flips))

    def _with_skipped(self, sample: dict[str, Any], skipped: list[str]) -> dict[str, Any]:
        # Text, as a loader makes batches of it whatever its length.
        return {**sample, "skipped": "\n".join(skipped)} if self._skips else sample

    # options ----------------------------------------------------------------------------------------------------------
    def _open(self, key: str) -> ImageSource:
        backend = self.opt.get("io_backend") or {"type": "disk"}
        kind = backend.get("type") if isinstance(backend, dict) else None
        if kind not in ("disk", "lmdb"):
            raise self._wrong("io_backend", "a block with 'type: disk' or 'type: lmdb'")
        root = self.opt.get(key)
        if not isinstance(root, str | os.PathLike) or not os.fspath(root):
            raise self._wrong(key, "the path of a folder of images or of an LMDB")
        if (kind == "lmdb") != is_lmdb(os.path.normpath(root)):
            fitting = "the path of an LMDB, which ends in .lmdb" if kind == "lmdb" else "a folder of images"
            raise self._wrong(key, f"{fitting}, as io_backend has 'type: {kind}'; change one of the two")
        return open_source(root)

    def _choice(self, key: str, *values: Any) -> None:
        if self.opt.get(key) not in values:
            raise self._wrong(key, " or ".join(repr(value) for value in values if value is not None))

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


def random_crop(
    image: np.ndarray, size: int, rng: np.random.Generator, *, hflip: bool, vflip: bool, rot: bool
) -> np.ndarray:
    """Cut a square at a random place, as a view; an image smaller than it is continued by reflection.

    Five numbers are drawn whatever the flags are, so that switching one on leaves all else as it was.
    """
    height, width = (max(length, size) for length in image.shape[:2])
    if image.shape[:2] != (height, width):
        image = np.pad(image, [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)], mode="reflect")
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    mirrored, upside_down, transposed = rng.random(3) < 0.5
    image = image[top : top + size, left : left + size]
    if mirrored and hflip:
        image = image[:, ::-1]
    if upside_down and vflip:
        image = image[::-1]
    if transposed and rot:
        image = image.transpose(1, 0, 2)
    return image
