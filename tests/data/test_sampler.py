import copy
import math
import pickle
import random
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from unpaired_helpers import epoch_indices

from nlcl_plugin.data.sampler import EpochSampler, SampleIndex, SeededDataset, sample_generator


def draws(indices):
    return [index.draw for index in indices]


class TestSampleIndex:
    def test_is_an_int_that_survives_copies_and_pickles(self):
        index = SampleIndex(3, epoch=7, draw=13)
        assert (index, hash(index), str(index), [10, 11, 12, 13][index]) == (3, 3, "3", 13)
        copies = [pickle.loads(pickle.dumps(index, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301
        for twin in [*copies, copy.copy(index), copy.deepcopy(index)]:
            assert type(twin) is SampleIndex
            assert (twin, twin.epoch, twin.draw) == (3, 7, 13)


class TestEpochSampler:
    @pytest.mark.parametrize(("size", "ratio", "world"), [(10, 1, 1), (10, 1, 3), (7, 100, 4), (8, 1, 8), (3, 0.5, 2)])
    def test_no_draw_is_seen_twice_and_together_they_are_an_epoch(self, size, ratio, world):
        ranks = [epoch_indices(size, epoch=1, ratio=ratio, world_size=world, rank=r) for r in range(world)]
        total = math.ceil(size * ratio)
        assert {len(rank) for rank in ranks} == {total // world}
        seen = [draw for rank in ranks for draw in draws(rank)]
        assert len(set(seen)) == len(seen) == total - total % world
        assert set(seen) <= set(range(total))
        assert all(index == index.draw % size for rank in ranks for index in rank)

    @pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 2), (2, 1), (1, 2)])
    def test_an_epoch_is_continued_at_its_place_by_any_number_of_processes(self, before, after):
        whole = draws(epoch_indices(12, epoch=4))
        place = 3 * before
        seen = [
            draw
            for rank in range(before)
            for draw in draws(epoch_indices(12, epoch=4, world_size=before, rank=rank))[:3]
        ]
        rest = []
        for rank in range(after):
            sampler = EpochSampler(range(12), after, rank)
            sampler.set_epoch(4, place)
            assert len(sampler) == len(list(sampler)) == (12 - place) // after
            rest += draws(sampler)
        assert sorted(seen) == sorted(whole[:place])
        assert not set(seen) & set(rest)
        assert len(rest) == (12 - place) // after * after


class Noise:
    """A stock-like dataset that draws from the global generators."""

    paths: ClassVar = ["here"]

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()], dtype=torch.float64)  # noqa: NPY002


class TestSeededDataset:
    def loaded(self, workers, start=0, seed=5, epoch=0):
        sampler = EpochSampler(Noise(), 1, 0)
        sampler.set_epoch(epoch, start)
        loader = DataLoader(SeededDataset(Noise(), seed), sampler=sampler, batch_size=2, num_workers=workers)
        return torch.cat(list(loader))

    def test_samples_depend_on_seed_epoch_and_draw_and_not_on_workers_or_where_the_epoch_is_taken_up(self):
        alone = self.loaded(0)
        assert len(set(alone.flatten().tolist())) == 18
        assert torch.equal(self.loaded(2), alone)
        assert torch.equal(self.loaded(1, start=2), alone[2:])
        assert not torch.equal(self.loaded(0, seed=6), alone)
        assert not torch.equal(self.loaded(0, epoch=1).sort(0).values, alone.sort(0).values)

    def test_the_generators_outside_continue_as_if_nothing_was_loaded(self):
        def numbers(between):
            random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
            between()
            return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

        dataset = SeededDataset(Noise(), 0)
        assert numbers(lambda: dataset[3]) == numbers(lambda: None)


class TestSampleGenerator:
    def test_every_draw_has_a_stream_of_its_own(self):
        streams = {
            tuple(sample_generator(seed, SampleIndex(0, epoch=epoch, draw=draw)).integers(2**62, size=2))
            for seed in (0, 1, 2**32)
            for epoch in range(5)
            for draw in range(5)
        }
        assert len(streams) == 3 * 5 * 5

    def test_a_plain_int_is_that_draw_of_epoch_0(self):
        plain = sample_generator(3, 8).random(4)
        np.testing.assert_array_equal(plain, sample_generator(3, SampleIndex(2, epoch=0, draw=8)).random(4))
