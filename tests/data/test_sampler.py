import copy
import math
import pickle

import numpy as np
import pytest
from torch.utils.data import BatchSampler, DataLoader
from unpaired_helpers import epoch_indices

from nlcl_plugin.data.sampler import SampleIndex, sample_generator, with_epoch


class Echo:
    """A dataset that tells what it was asked for."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        return int(index), index.epoch, index.draw


def draws(indices):
    return [index.draw for index in indices]


class TestSampleIndex:
    def test_is_an_int(self):
        index = SampleIndex(3, epoch=7, draw=13)
        assert index == 3
        assert hash(index) == hash(3)
        assert [10, 11, 12, 13][index] == 13
        assert np.arange(5)[index] == 3
        assert str(index) == "3"

    def test_survives_copies_and_pickles(self):
        index = SampleIndex(3, epoch=7, draw=13)
        copies = [pickle.loads(pickle.dumps(index, p)) for p in range(pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301
        for twin in [*copies, copy.copy(index), copy.deepcopy(index)]:
            assert type(twin) is SampleIndex
            assert (twin, twin.epoch, twin.draw) == (3, 7, 13)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_reaches_the_dataset(self, workers):
        batches = BatchSampler(epoch_indices(5, epoch=2, ratio=2), batch_size=3, drop_last=False)
        loader = DataLoader(Echo(), batch_sampler=batches, num_workers=workers, collate_fn=list)
        received = [sample for batch in loader for sample in batch]
        assert received == [(int(i), i.epoch, i.draw) for i in epoch_indices(5, epoch=2, ratio=2)]

    def test_draws_wrap_around(self):
        indices = with_epoch([0, 4, 5, 12], epoch=3, size=5)
        assert [(int(i), i.epoch, i.draw) for i in indices] == [(0, 3, 0), (4, 3, 4), (0, 3, 5), (2, 3, 12)]


class TestEpochIndices:
    @pytest.mark.parametrize(("size", "ratio", "world"), [(10, 1, 1), (10, 1, 3), (7, 100, 4), (1, 1, 8), (3, 0.5, 2)])
    def test_ranks_share_an_epoch_as_in_basicsr(self, size, ratio, world):
        ranks = [epoch_indices(size, epoch=1, ratio=ratio, world_size=world, rank=r) for r in range(world)]
        total = math.ceil(size * ratio / world) * world
        assert {len(rank) for rank in ranks} == {total // world}
        assert sorted(draw for rank in ranks for draw in draws(rank)) == list(range(total))
        assert all(index == index.draw % size for rank in ranks for index in rank)

    def test_order_depends_on_the_epoch_only(self):
        assert draws(epoch_indices(50, epoch=0)) == draws(epoch_indices(50, epoch=0))
        assert draws(epoch_indices(50, epoch=0)) != draws(epoch_indices(50, epoch=1))

    def test_ranks_interleave_what_one_process_would_load(self):
        whole = draws(epoch_indices(10, epoch=4))
        assert whole[0::2] == draws(epoch_indices(10, epoch=4, world_size=2, rank=0))
        assert whole[1::2] == draws(epoch_indices(10, epoch=4, world_size=2, rank=1))


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
