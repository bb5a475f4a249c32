"""Rainy and clean photographs that have nothing to do with each other, as a dataset for BasicSR."""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from nlcl_plugin.data.image_io import decode_raw, list_images, read_bytes, to_tensor
from nlcl_plugin.data.sampler import sample_generator
from nlcl_plugin.errors import InputError


class _Source(Protocol):
    """Where encoded images come from."""

    root: str
    names: list[str]

    def read(self, name: str) -> bytes:
        """Read an encoded image."""


class _FolderSource:
    def __init__(self, root: str) -> None:
        self.root = root
        self.names = list_images(root)

    def read(self, name: str) -> bytes:
        return read_bytes(os.path.join(self.root, name))


class _LmdbSource:
    def __init__(self, root: str) -> None:
        from nlcl_plugin.data.lmdb_store import LmdbImages  # here, as who reads folders needs no lmdb

        self.root = root
        self._images = LmdbImages(root)
        self.names = self._images.keys

    def read(self, name: str) -> bytes:
        return self._images.get(name)


class UnpairedImageDataset(Dataset[dict[str, Any]]):
    """Rainy images, each with a clean image of another scene that is drawn anew in every epoch.

    The clean partner, the crops and the flips of a sample come from (seed, epoch, draw) and from nothing else, if the
    sampler gives a `SampleIndex`; a plain int counts as that draw of epoch 0. Crops and flips of the two images are
    independent. Images smaller than the crop are continued by reflection.

    Args:
        opt: The options:

            - phase (str): `train`, or `val` or `test` for whole rainy images alone.
            - dataroot_lq (str): The rainy images: a folder that is searched to its depth, or an LMDB.
            - dataroot_gt (str): The clean images, for training only: other scenes, other names, any count.
            - io_backend (dict): `type: disk` (the default) or `type: lmdb`, for both roots.
            - gt_size (int): The side of the square crop, for training only.
            - use_hflip, use_vflip, use_rot (bool): Mirror left-right, upside down, transpose, each half of the time.
              Default: False. Rain falls downwards: the last two also teach rain that does not.
            - manual_seed, or seed (int): The seed. Default: 0.
            - cache (bool): Keep all decoded images in the memory of each process. Default: False. For small sets;
              loader workers each fill a cache of their own, so use it with `num_worker_per_gpu: 0` or with
              `persistent_workers: true`.
            - on_error (str): `raise` (the default), or `skip`: in training, the next image takes the place of one that
              cannot be read, and the sample tells it in `skipped`.
            - scale (int): 1 or absent; there is nothing to enlarge.

            Others, such as the loader's, are left alone.

    Raises:
        InputError: If an option is missing or wrong.

    Attributes:
        opt: The options, as given.
        paths: The path of each rainy image; in an LMDB, the LMDB's path and the key.
        OPTION_KEYS: The keys that this class knows.
    """

    OPTION_KEYS = (
        "name",
        "type",
        "phase",
        "scale",
        "dataroot_lq",
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

    def __init__(self, opt: dict[str, Any]) -> None:
        """Check the options and list the images."""
        self.opt = opt
        if opt.get("phase") not in ("train", "val", "test"):
            raise self._wrong("phase", "'train', 'val' or 'test'")
        self._training = opt["phase"] == "train"
        if opt.get("scale") not in (None, 1):
            raise self._wrong("scale", "1, as derained images keep their size; remove the key")
        seed_key = "manual_seed" if opt.get("manual_seed") is not None else "seed"
        self._seed = self._integer(seed_key, minimum=0, default=0)
        if opt.get("on_error") not in (None, "raise", "skip"):
            raise self._wrong("on_error", "'raise' or 'skip'")
        self._skips = opt.get("on_error") == "skip" and self._training
        self._cache: dict[str, np.ndarray] | None = {} if self._flag("cache") else None

        if self._training:
            self._crop_size = self._integer("gt_size", minimum=1)
            self._use_hflip, self._use_vflip = self._flag("use_hflip"), self._flag("use_vflip")
            self._use_rot = self._flag("use_rot")
            self._clean = self._open("dataroot_gt")
        self._rainy = self._open("dataroot_lq")
        self.paths = [os.path.join(self._rainy.root, name) for name in self._rainy.names]

    def __len__(self) -> int:
        """The number of rainy images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load a sample.

        Args:
            index: The rainy image; a `SampleIndex` also says of which epoch and draw.

        Returns:
            `lq`, the rainy image, and `lq_path`; in training also `gt`, a clean image of another scene, and `gt_path`.
            Images are (3, H, W) RGB float32 tensors in [0, 1].

        Raises:
            InputError: If an image cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} images")  # what ends a plain loop over the dataset
        skipped: list[str] = []
        rainy, rainy_path = self._load_from(self._rainy, int(index), skipped)
        if not self._training:
            # Never the clean images, even where given: they show other scenes and are no ground truth to measure with.
            return {"lq": to_tensor(rainy), "lq_path": rainy_path}
        rng = sample_generator(self._seed, index)
        clean, clean_path = self._load_from(self._clean, int(rng.integers(len(self._clean.names))), skipped)
        sample = {
            "lq": self._augment(rainy, rng),
            "gt": self._augment(clean, rng),
            "lq_path": rainy_path,
            "gt_path": clean_path,
        }
        # Text, as a loader makes batches of it whatever its length.
        return {**sample, "skipped": "\n".join(skipped)} if self._skips else sample

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached images behind on the way to a loader worker."""
        return {**self.__dict__, "_cache": None if self._cache is None else {}}

    def _load_from(self, source: _Source, position: int, skipped: list[str]) -> tuple[np.ndarray, str]:
        """Load the image at a position, or the next readable one; its path comes with it."""
        count = len(source.names)
        for attempt in range(count if self._skips else 1):
            name = source.names[(position + attempt) % count]
            path = os.path.join(source.root, name)
            try:
                return self._load(source, name), path
            except InputError:
                if not self._skips:
                    raise
                skipped.append(path)
        raise InputError(f"{source.root}: none of its {count} images can be read")

    def _load(self, source: _Source, name: str) -> np.ndarray:
        path = os.path.join(source.root, name)
        if self._cache is None:
            return decode_raw(source.read(name), path)
        if path not in self._cache:
            self._cache[path] = decode_raw(source.read(name), path)
        return self._cache[path]

    def _augment(self, image: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
        image = reflect_to(image, self._crop_size)
        height, width, _ = image.shape
        top, left = rng.integers(height - self._crop_size + 1), rng.integers(width - self._crop_size + 1)
        # Always three numbers, so that switching a flip on leaves all else in the sample as it was.
        hflip, vflip, rotate = rng.random(3) < 0.5
        image = image[top : top + self._crop_size, left : left + self._crop_size]
        if hflip and self._use_hflip:
            image = image[:, ::-1]
        if vflip and self._use_vflip:
            image = image[::-1]
        if rotate and self._use_rot:
            image = image.transpose(1, 0, 2)
        return to_tensor(image)

    def _open(self, key: str) -> _Source:
        backend = self.opt.get("io_backend", {"type": "disk"})
        kind = backend.get("type") if isinstance(backend, dict) else backend
        if not isinstance(backend, dict) or kind not in ("disk", "lmdb"):
            raise self._wrong("io_backend", "a block with 'type: disk' or 'type: lmdb'")
        root = self.opt.get(key)
        if not isinstance(root, str | os.PathLike) or not os.fspath(root):
            raise self._wrong(key, "the path of a folder of images or of an LMDB")
        root = os.path.normpath(os.path.expanduser(root))
        if kind == "lmdb" and not root.endswith(".lmdb"):
            raise self._wrong(key, "a folder that ends in .lmdb, as io_backend has 'type: lmdb'; change one of the two")
        if kind == "disk" and root.endswith(".lmdb"):
            raise self._wrong(key, "a folder of images, as io_backend has 'type: disk'; set 'type: lmdb' for an LMDB")
        return _LmdbSource(root) if kind == "lmdb" else _FolderSource(root)

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


def reflect_to(image: np.ndarray, size: int) -> np.ndarray:
    """Continue an image to the right and below by reflection, where it is smaller than a square.

    The edge is not repeated. An image too small for one reflection is reflected to and fro.

    Args:
        image: An (H, W, C) array.
        size: The side of the square.

    Returns:
        An array of at least `size` in height and width; the image itself if it is that large.
    """
    height, width, _ = image.shape
    if height < size:
        image = image[_reflection(height, size)]
    if width < size:
        image = image[:, _reflection(width, size)]
    return image


def _reflection(length: int, size: int) -> np.ndarray:
    # 0 1 2 1 0 1 2 1 ... for a length of 3; all 0 for a length of 1.
    period = max(2 * (length - 1), 1)
    places = np.arange(size) % period
    return np.minimum(places, period - places)
