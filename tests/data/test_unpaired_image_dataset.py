import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from unpaired_helpers import CLEAN, RAINY, epoch_indices, make_roots, options

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.data.unpaired_image_dataset import UnpairedImageDataset


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return make_roots(tmp_path_factory.mktemp("unpaired"))


def equal(one, other):
    """Samples or batches with the same images, in the same files but for the root and the ending."""
    assert one.keys() == other.keys()
    assert torch.equal(one["lq"], other["lq"])
    return "gt" not in one or torch.equal(one["gt"], other["gt"])


def load(dataset, indices, **loader):
    return list(DataLoader(dataset, sampler=indices, batch_size=2, **loader))


def find(patch, image):
    """Where a patch lies in an image, in which of the eight orientations: (flipped, upside down, transposed, y, x)."""
    found = []
    for transposed in (False, True):
        for flipped in (False, True):
            for upside_down in (False, True):
                tried = patch.transpose(1, 0, 2) if transposed else patch
                tried = tried[::-1] if upside_down else tried
                tried = tried[:, ::-1] if flipped else tried
                windows = np.lib.stride_tricks.sliding_window_view(image, tried.shape)[:, :, 0]
                found += [
                    (flipped, upside_down, transposed, int(y), int(x))
                    for y, x in np.argwhere((windows == tried).all((2, 3, 4)))
                ]
    return found


class TestTraining:
    def test_a_sample_is_two_crops_of_two_scenes(self, roots):
        dataset = UnpairedImageDataset(options(roots))
        assert len(dataset) == len(RAINY)
        assert dataset.paths == [str(roots["disk"][0] / name) for name in RAINY]
        for i, sample in enumerate(dataset):
            assert sample.keys() == {"lq", "gt", "lq_path", "gt_path"}
            assert sample["lq_path"] == dataset.paths[i]
            for key in ("lq", "gt"):
                patch = sample[key]
                assert patch.shape == (3, 8, 8)
                assert patch.dtype == torch.float32
                whole = cv2.imdecode(np.fromfile(sample[f"{key}_path"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
                assert len(find(to_uint8(patch), whole)) == 1

    def test_crops_and_flips_cover_all_and_are_independent(self, roots):
        """Every orientation and corner occurs, and knowing those of one image tells nothing of the other's."""
        dataset = UnpairedImageDataset(options(roots, cache=True))
        wholes = {}
        seen = []
        for epoch in range(160):
            sample = dataset[SampleIndex(epoch % 5, epoch=epoch, draw=epoch % 5)]
            places = []
            for key in ("lq", "gt"):
                path = sample[f"{key}_path"]
                if path not in wholes:
                    wholes[path] = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
                places.append(find(to_uint8(sample[key]), wholes[path]))
            seen.append([place for (place,) in places])
        for side in (0, 1):
            assert {pair[side][:3] for pair in seen} == set(np.ndindex(2, 2, 2))
            assert {pair[side][3] for pair in seen} == set(range(12 - 8 + 1))
            assert {pair[side][4] for pair in seen} == set(range(17 - 8 + 1))
        columns = np.array(seen, dtype=float)
        for part in range(5):
            assert abs(np.corrcoef(columns[:, 0, part], columns[:, 1, part])[0, 1]) < 0.25  # 3 sigma

    def test_flips_are_off_unless_asked_for_and_change_nothing_else(self, roots):
        flags = ("use_hflip", "use_vflip", "use_rot")
        plain = {key: value for key, value in options(roots).items() if key not in flags}
        plain, flipped = UnpairedImageDataset(plain), UnpairedImageDataset({**plain, "use_hflip": True})
        changed = 0
        for i in range(len(plain)):
            for key in ("lq", "gt"):
                before, after = plain[i][key], flipped[i][key]
                changed += not torch.equal(before, after)
                assert torch.equal(before, after) or torch.equal(before.flip(-1), after)
            assert plain[i]["gt_path"] == flipped[i]["gt_path"]
        assert changed > 0

    def test_partners_are_drawn_anew_from_all_and_do_not_follow_the_index(self, roots):
        dataset = UnpairedImageDataset(options(roots, gt_size=1, cache=True))
        epochs = 150
        partners = np.array(
            [
                [dataset._clean.names.index(os.path.relpath(dataset[i]["gt_path"], roots["disk"][1])) for i in indices]
                for indices in (
                    sorted(epoch_indices(5, epoch=epoch), key=lambda index: index.draw) for epoch in range(epochs)
                )
            ]
        )
        table = np.array([np.bincount(partners[:, i], minlength=3) for i in range(5)])
        # Uniform for each index: chi-square with 5 · 2 degrees of freedom; 29.6 is exceeded once in a thousand.
        assert ((table - epochs / 3) ** 2 / (epochs / 3)).sum() < 29.6
        # One epoch tells nothing of the next: the partner stays in a third of the cases.
        assert abs((partners[1:] == partners[:-1]).mean() - 1 / 3) < 0.06
        assert abs(np.corrcoef(np.repeat(np.arange(5), epochs), partners.T.ravel())[0, 1]) < 0.12

    def test_an_enlarged_epoch_draws_each_rainy_image_with_several_partners(self, roots):
        dataset = UnpairedImageDataset(options(roots))
        pairs = {(dataset[i]["lq_path"], dataset[i]["gt_path"]) for i in epoch_indices(5, epoch=0, ratio=20)}
        assert len(pairs) == len(RAINY) * len(CLEAN)


class TestDeterminism:
    def test_depends_on_seed_epoch_and_draw_only(self, roots):
        dataset = UnpairedImageDataset(options(roots))
        again = UnpairedImageDataset(options(roots, seed=0))
        other = UnpairedImageDataset(options(roots, manual_seed=1))
        np.random.seed(5)  # noqa: NPY002  the global generators must not matter
        torch.manual_seed(5)
        assert all(equal(dataset[i], again[i]) for i in range(5))
        assert not any(torch.equal(dataset[i]["lq"], other[i]["lq"]) for i in range(5))
        index = SampleIndex(2, epoch=0, draw=2)
        assert equal(dataset[2], dataset[index])
        assert not torch.equal(dataset[2]["lq"], dataset[SampleIndex(2, epoch=1, draw=2)]["lq"])
        assert not torch.equal(dataset[2]["lq"], dataset[SampleIndex(2, epoch=0, draw=7)]["lq"])
        assert equal(dataset[np.int64(2)], dataset[2])

    @pytest.mark.parametrize("backend", ["disk", "lmdb"])
    def test_number_of_workers_does_not_matter(self, roots, backend):
        dataset = UnpairedImageDataset(options(roots, backend))
        indices = epoch_indices(5, epoch=3, ratio=2)
        expected = load(dataset, indices)
        for workers in (1, 2):
            batches = load(dataset, indices, num_workers=workers, multiprocessing_context="fork")
            assert all(map(equal, batches, expected))
            assert [batch["gt_path"] for batch in batches] == [batch["gt_path"] for batch in expected]

    def test_split_into_ranks_does_not_matter(self, roots):
        dataset = UnpairedImageDataset(options(roots))
        whole = {index.draw: dataset[index] for index in epoch_indices(5, epoch=3, ratio=2)}
        for rank in (0, 1):
            for index in epoch_indices(5, epoch=3, ratio=2, world_size=2, rank=rank):
                assert equal(dataset[index], whole.pop(index.draw))
        assert not whole

    def test_cache_changes_nothing(self, roots):
        plain, cached = UnpairedImageDataset(options(roots)), UnpairedImageDataset(options(roots, cache=True))
        for epoch in range(2):
            for index in epoch_indices(5, epoch=epoch):
                sample = cached[index]
                assert equal(sample, plain[index])
                sample["lq"].zero_()
                sample["gt"].zero_()
        assert len(cached._cache) > len(RAINY)
        assert {image.dtype for image in cached._cache.values()} == {np.dtype(np.uint8)}
        assert pickle.loads(pickle.dumps(cached))._cache == {}  # noqa: S301


class TestLmdb:
    def test_gives_what_the_folder_gives(self, roots):
        folder, store = (UnpairedImageDataset(options(roots, backend)) for backend in ("disk", "lmdb"))
        assert [os.path.relpath(path, roots["lmdb"][0]) for path in store.paths] == [name[:-4] for name in RAINY]
        for epoch in range(3):
            indices = epoch_indices(5, epoch=epoch, ratio=2)
            for one, other in zip(load(folder, indices), load(store, indices), strict=True):
                assert equal(one, other)
                for key, root in (("lq_path", 0), ("gt_path", 1)):
                    names = [os.path.relpath(path, roots["disk"][root])[:-4] for path in one[key]]
                    assert names == [os.path.relpath(path, roots["lmdb"][root]) for path in other[key]]

    def test_trains_and_validates_on_one_lmdb_with_forked_workers(self, roots):
        train = UnpairedImageDataset(options(roots, "lmdb"))
        val = UnpairedImageDataset(options(roots, "lmdb", phase="val"))
        expected = UnpairedImageDataset(options(roots))
        for epoch in range(3):
            indices = epoch_indices(5, epoch=epoch)
            loader = DataLoader(train, sampler=indices, batch_size=2, num_workers=2, multiprocessing_context="fork")
            for batch, reference in zip(loader, load(expected, indices), strict=True):
                assert equal(batch, reference)
                assert len(list(DataLoader(val))) == len(RAINY)  # validation between two steps, in the main process

    def test_spawned_workers(self, roots):
        # Only this test starts fresh interpreters, since each takes seconds.
        train = UnpairedImageDataset(options(roots, "lmdb", cache=True))
        val = UnpairedImageDataset(options(roots, "lmdb", phase="val"))
        indices = epoch_indices(5, epoch=1)
        loader = DataLoader(train, sampler=indices, batch_size=2, num_workers=1, multiprocessing_context="spawn")
        assert all(map(equal, loader, load(train, indices)))
        assert len(list(val)) == len(RAINY)
