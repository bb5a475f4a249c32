"""Samplers and datasets for MMEngine."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator, Sized
from typing import Any

from mmengine.dist import get_dist_info
from torch.utils.data import Dataset, Sampler

from nlcl_plugin.data import pseudo_pair_dataset, unpaired_image_dataset
from nlcl_plugin.data import sampler as sampling
from nlcl_plugin.data.image_io import read_image, to_tensor
from nlcl_plugin.data.image_sources import pair_images
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.errors import InputError


class _EpochsNeeded:
    """Warns where the sampler's indices have no epoch, as with MMEngine's samplers."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load a sample."""
        if self.opt["phase"] == "train" and not isinstance(index, SampleIndex):  # type: ignore[attr-defined]
            warnings.warn(
                f"{type(self).__name__}: every epoch has the same crops, flips and partners, as the sampler's indices "
                "have no epoch; use train_dataloader.sampler=dict(type='EpochSampler')",
                stacklevel=2,
            )
        return super().__getitem__(index)  # type: ignore[misc]


class UnpairedImageDataset(_EpochsNeeded, unpaired_image_dataset.UnpairedImageDataset):
    """`nlcl_plugin.data.UnpairedImageDataset`; its training needs `EpochSampler`."""


class PseudoPairDataset(_EpochsNeeded, pseudo_pair_dataset.PseudoPairDataset):
    """`nlcl_plugin.data.PseudoPairDataset`; its training needs `EpochSampler`."""


class EpochSampler(sampling.EpochSampler):
    """`nlcl_plugin.data.sampler.EpochSampler` for this process of MMEngine's.

    `seed`, which MMEngine passes, is not used: the order depends on the epoch, a sample's randomness on the dataset's.
    """

    def __init__(self, dataset: Sized, seed: int | None = None, ratio: float = 1) -> None:
        rank, processes = get_dist_info()
        super().__init__(dataset, num_replicas=processes, rank=rank, ratio=ratio)


class EndlessBatchSampler(Sampler[list[SampleIndex]]):
    """Whole batches of one epoch after another, without end, for MMEngine's loops that count iterations.

    They would otherwise wait for two seconds at the end of each epoch.

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
        """Batches per epoch."""
        return len(self.sampler) // self.batch_size

    def __iter__(self) -> Iterator[list[SampleIndex]]:
        """Yield batches."""
        for batch in itertools.count(self._start):
            epoch, place = divmod(batch, len(self))
            if place == 0 or batch == self._start:
                self.sampler.set_epoch(epoch)
                draws = list(self.sampler)
            yield draws[place * self.batch_size : (place + 1) * self.batch_size]

    def start_at(self, batch: int) -> None:
        """Begin the next iteration with a batch, counted from 0 at the first of the first epoch."""
        self._start = batch


class PairedImageDataset(Dataset[dict[str, Any]]):
    """Whole rainy images and their ground truth, for validation.

    Options are `dataroot_lq` and `dataroot_gt`, two folders of images, paired by `data.image_sources.pair_images`.

    Raises:
        InputError: If a folder is missing or an image has no partner, or more than one.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        self._paths = pair_images(*(os.path.expanduser(opt[key]) for key in ("dataroot_lq", "dataroot_gt")))

    def __len__(self) -> int:
        """The number of pairs."""
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Load a pair: `lq` and `gt` (3, H, W) RGB in [0, 1], and their paths `lq_path` and `gt_path`."""
        paths = self._paths[index]
        lq, gt = (to_tensor(read_image(path)) for path in paths)
        if lq.shape != gt.shape:
            raise InputError(f"{paths[0]} and {paths[1]} differ in size; pairs must have one size")
        return {"lq": lq, "gt": gt, "lq_path": paths[0], "gt_path": paths[1]}
