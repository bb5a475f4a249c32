"""Which samples an epoch has, and the randomness of each.

Everything random about a sample comes from (seed, epoch, draw), where the draw is the sample's place in the epoch
before it is shuffled. So it depends neither on the number of loader workers nor on which rank or worker loads the
sample.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


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

    def __reduce__(self) -> tuple[object, tuple[int, int, int]]:
        """Survive the way to a loader worker."""
        return _restore, (int(self), self.epoch, self.draw)


def _restore(value: int, epoch: int, draw: int) -> SampleIndex:
    return SampleIndex(value, epoch=epoch, draw=draw)


def with_epoch(draws: Iterable[int], *, epoch: int, size: int) -> list[SampleIndex]:
    """Turn draws into indices of a dataset.

    Args:
        draws: Places in the epoch, 0 and up; those beyond the dataset's size wrap around.
        epoch: The epoch.
        size: The dataset's size.

    Returns:
        The indices, in the same order.
    """
    return [SampleIndex(draw % size, epoch=epoch, draw=draw) for draw in draws]


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
