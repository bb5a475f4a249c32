"""Samplers, datasets and a transform for MMEngine."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sized
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from nlcl_plugin.data import pseudo_pair_dataset, unpaired_image_dataset
from nlcl_plugin.data import sampler as sampling
from nlcl_plugin.data.image_io import read_image, to_tensor
from nlcl_plugin.data.image_sources import pair_images
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.renderer import blend, render_rain


class _TellsEpochs:
    """Warns where the sampler's indices tell no epoch, as those of MMEngine's samplers."""

    _warned = False

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load a sample."""
        if self.opt["phase"] == "train" and not isinstance(index, SampleIndex) and not self._warned:  # type: ignore[attr-defined]
            self._warned = True
            warnings.warn(
                f"{type(self).__name__}: every epoch has the same crops, flips and partners, as the sampler tells no "
                "epoch; use train_dataloader.sampler=dict(type='EpochSampler')",
                stacklevel=2,
            )
        return super().__getitem__(index)  # type: ignore[misc]


class UnpairedImageDataset(_TellsEpochs, unpaired_image_dataset.UnpairedImageDataset):
    """`nlcl_plugin.data.UnpairedImageDataset`, which wants `EpochSampler` for its training."""


class PseudoPairDataset(_TellsEpochs, pseudo_pair_dataset.PseudoPairDataset):
    """`nlcl_plugin.data.PseudoPairDataset`, which wants `EpochSampler` for its training."""


class EpochSampler(sampling.EpochSampler):
    """`nlcl_plugin.data.sampler.EpochSampler` for this process of MMEngine's.

    Args:
        dataset: The dataset.
        seed: Not used: the order depends on the epoch alone, and a sample's randomness on the dataset's seed.
        ratio: Draws of each image in an epoch.
    """

    def __init__(self, dataset: Sized, seed: int | None = None, ratio: float = 1) -> None:
        rank, processes = get_dist_info()
        super().__init__(dataset, num_replicas=processes, rank=rank, ratio=ratio)


class EndlessBatchSampler(Sampler[list[SampleIndex]]):
    """Whole batches of one epoch after another, without end, for MMEngine's loops that count iterations.

    They would otherwise wait for two seconds at the end of each epoch.

    Args:
        sampler: An `EpochSampler`.
        batch_size: Images of a batch of this process.

    Raises:
        InputError: If an epoch has no batch.
    """

    def __init__(self, sampler: EpochSampler, batch_size: int) -> None:
        self.sampler = sampler
        self.batch_size = batch_size
        self._start = 0
        if len(self) == 0:
            raise InputError(
                f"{len(sampler)} images of each process don't fill one batch of {batch_size}; lower the batch_size "
                "of train_dataloader or raise the ratio of its sampler"
            )

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        """Yield batches."""
        epoch, first = divmod(self._start, len(self))
        while True:
            self.sampler.set_epoch(epoch)
            draws = list(self.sampler)
            for place in range(first, len(self)):
                yield draws[place * self.batch_size : (place + 1) * self.batch_size]
            epoch, first = epoch + 1, 0

    def start_at(self, batch: int) -> None:
        """Begin the next iteration with a batch, counted from 0 at the first of the first epoch."""
        self._start = batch


class PairedImageDataset(Dataset[dict[str, Any]]):
    """Whole rainy images and their ground truth, for validation.

    Args:
        opt: `dataroot_lq` and `dataroot_gt`: two folders of images with the same names, at least without their
            endings.

    Raises:
        InputError: If a folder is missing or an image has no partner, or more than one.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        for key in ("dataroot_lq", "dataroot_gt"):
            if not opt.get(key):
                raise InputError(f"{key} is missing: PairedImageDataset needs a folder of images")
        rainy, clean = (os.path.expanduser(opt[key]) for key in ("dataroot_lq", "dataroot_gt"))
        self._paths = [{"lq": lq, "gt": gt} for lq, gt in pair_images(rainy, clean)]

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load a pair: `lq` and `gt` (3, H, W) RGB in [0, 1], and their paths `lq_path` and `gt_path`."""
        paths = self._paths[index]
        images = {key: to_tensor(read_image(path)) for key, path in paths.items()}
        if images["lq"].shape != images["gt"].shape:
            raise InputError(f"{paths['lq']} and {paths['gt']} differ in size; pairs must have one size")
        return {**images, **{f"{key}_path": path for key, path in paths.items()}}


class AddRenderedRain:
    """A transform: lays rendered rain (see `rain.renderer`) on an image, for pipelines of other projects.

    Args:
        key: The clean image in the results: (H, W, 3), RGB, uint8 or float in [0, 1].
        rainy_key: Where the rainy image goes, of the same type.
        mode: `additive` or `screen`.
        render: Arguments of `render_rain`, such as `density`.
    """

    def __init__(
        self, key: str = "gt", rainy_key: str = "lq", mode: str = "additive", render: dict[str, Any] | None = None
    ) -> None:
        self.key = key
        self.rainy_key = rainy_key
        self.mode = mode
        self.render = dict(render or {})

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the rainy image to the results; draws from torch's generator, which loaders seed by worker."""
        clean = results[self.key]
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        rain = render_rain(clean.shape[:2], rng, **self.render)
        eight_bit = clean.dtype == np.uint8
        rainy = blend(clean.astype(np.float32) / 255 if eight_bit else clean, rain, self.mode)
        results[self.rainy_key] = (rainy * 255).round().astype(np.uint8) if eight_bit else rainy.astype(clean.dtype)
        return results
