"""Which samples an epoch has, and the randomness of each.

Everything random about a sample comes from (seed, epoch, draw), where the draw is the sample's place in the epoch
before it is shuffled. So it depends neither on the number of loader workers nor on which rank or worker loads the
sample.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler


class SampleIndex(int):
    """An index into a dataset that knows which draw of which epoch it is; stock datasets see a plain int.

    Args:
        value: The index.
        epoch: The epoch.
        draw: The place among the epoch's draws: `value` is `draw` modulo the dataset's size, so that an enlarged epoch
            draws each image several times.
    """

    epoch: int
    draw: int

    def __new__(cls, value: int, *, epoch: int, draw: int) -> SampleIndex:
        """Make the int and attach what it knows."""
        index = super().__new__(cls, value)
        index.epoch = epoch
        index.draw = draw
        return index

    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        """Survive the way to a loader worker."""
        return (int(self),), {"epoch": self.epoch, "draw": self.draw}


def sample_generator(seed: int, index: int) -> np.random.Generator:
    """Make the generator for everything random about one sample.

    Args:
        seed: The seed of the run.
        index: A `SampleIndex`; a plain int counts as that draw of epoch 0.

    Returns:
        The generator.
    """
    epoch, draw = (index.epoch, index.draw) if isinstance(index, SampleIndex) else (0, int(index))
    # A spawn key, since SeedSequence([seed, epoch]) and SeedSequence([seed, epoch, 0]) are the same stream.
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, draw)))


class EpochSampler(Sampler[SampleIndex]):
    """Deals the draws of an epoch out to the processes in turn; takes the place of BasicSR's `EnlargedSampler`.

    No two processes see the same draw, and together they see one epoch, but for those draws (fewer than there are
    processes) that would not go round. The order depends on the epoch alone, so an epoch can be gone on with at any
    place and by another number of processes.

    Args:
        dataset: The dataset.
        num_replicas: Processes.
        rank: This process.
        ratio: Draws of each image in an epoch.
    """

    def __init__(self, dataset: Sized, num_replicas: int, rank: int, ratio: float = 1) -> None:
        self.dataset = dataset
        self.num_replicas = num_replicas
        self.rank = rank
        self.draws = math.ceil(len(dataset) * ratio)
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch to deal out.

        Args:
            epoch: The epoch.
            start: Draws of it, of all processes together, that are left out as they were seen before.
        """
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[SampleIndex]:
        generator = torch.Generator().manual_seed(self.epoch)
        left = torch.randperm(self.draws, generator=generator).tolist()[self.start :]
        own = left[self.rank :: self.num_replicas][: len(self)]
        return iter([SampleIndex(draw % len(self.dataset), epoch=self.epoch, draw=draw) for draw in own])

    def __len__(self) -> int:
        """Draws of each process that are left."""
        return max(self.draws - self.start, 0) // self.num_replicas


class SeededDataset(Dataset[Any]):
    """A dataset whose samples draw their randomness from (seed, epoch, draw), also if they use global generators.

    Stock datasets crop and flip with the generators of Python, NumPy or torch, whose state in a loader worker depends
    on what the worker did before. Attributes are those of the dataset inside.

    Args:
        dataset: The dataset.
        seed: The seed of the run.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Load a sample; its index is a `SampleIndex`."""
        with _seeded(sample_generator(self.seed, index)):
            return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        """Look up what is not here in the dataset inside."""
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)


@contextmanager
def _seeded(generator: np.random.Generator) -> Iterator[None]:
    """Seed the global generators of the CPU for a while."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    seed = int(generator.integers(2**32))
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
