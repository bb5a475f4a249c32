import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from unpaired_helpers import CLEAN, RAINY, epoch_indices, make_roots, options, write_folder

from nlcl_plugin.data.image_dataset import random_crop
from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.data.unpaired_image_dataset import UnpairedImageDataset
from nlcl_plugin.errors import InputError


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return make_roots(tmp_path_factory.mktemp("unpaired"))


def equal(one, other):
    """Samples or batches with the same images, in the same files but for the root and the ending."""
    assert one.keys() == other.keys()
    assert torch.equal(one["lq"], other["lq"])
    return "gt" not in one or torch.equal(one["gt"], other["gt"])


def stem(path):
    return os.path.basename(path).removesuffix(".png")


def load(dataset, indices, **loader):
    return list(DataLoader(dataset, sampler=indices, batch_size=2, **loader))


def read(path):
    return cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def find(patch, image):
    """Where a patch is in an image, in which of the eight orientations: (flipped, upside down, transposed, y, x)."""
    found = []
    for transposed, flipped, upside_down in np.ndindex(2, 2, 2):
        tried = patch.transpose(1, 0, 2) if transposed else patch
        tried = tried[::-1] if upside_down else tried
        tried = tried[:, ::-1] if flipped else tried
        windows = np.lib.stride_tricks.sliding_window_view(image, tried.shape)[:, :, 0]
        places = np.argwhere((windows == tried).all((2, 3, 4)))
        found += [(flipped, upside_down, transposed, int(y), int(x)) for y, x in places]
    return found


class TestTraining:
    def test_crops_and_flips_cover_all_and_are_independent(self, roots):
        """Every orientation and corner occurs, and those of one image are independent of the other's."""
        dataset = UnpairedImageDataset(options(roots, cache=True))
        assert dataset.paths == [str(roots["disk"][0] / name) for name in RAINY]
        seen = []
        for epoch in range(160):
            index = epoch % 5
            sample = dataset[SampleIndex(index, epoch=epoch, draw=index)]
            assert sample.keys() == {"lq", "gt", "lq_path", "gt_path"}
            assert sample["lq_path"] == dataset.paths[index]
            assert sample["lq"].shape == sample["gt"].shape == (3, 8, 8)
            places = [find(to_uint8(sample[key]), read(sample[f"{key}_path"])) for key in ("lq", "gt")]
            seen.append([place for (place,) in places])
        for side in (0, 1):
            assert {pair[side][:3] for pair in seen} == set(np.ndindex(2, 2, 2))
            assert {pair[side][3] for pair in seen} == set(range(12 - 8 + 1))
            assert {pair[side][4] for pair in seen} == set(range(17 - 8 + 1))
        columns = np.array(seen, dtype=float)
        for part in range(5):
            assert abs(np.corrcoef(columns[:, 0, part], columns[:, 1, part])[0, 1]) < 0.25  # 3 sigma

    def test_partners_are_drawn_anew_from_all_and_do_not_follow_the_index(self, roots):
        dataset = UnpairedImageDataset(options(roots, gt_size=1, cache=True))
        names, epochs = [str(roots["disk"][1] / name) for name in CLEAN], 150
        partners = np.array(
            [
                [names.index(dataset[i]["gt_path"]) for i in sorted(epoch_indices(5, epoch=e), key=lambda i: i.draw)]
                for e in range(epochs)
            ]
        )
        table = np.array([np.bincount(partners[:, i], minlength=3) for i in range(5)])
        # Uniform for each index: chi-square with 5 · 2 degrees of freedom; 29.6 is exceeded once in a thousand.
        assert ((table - epochs / 3) ** 2 / (epochs / 3)).sum() < 29.6
        # One epoch is independent of the next: the partner stays in a third of the cases.
        assert abs((partners[1:] == partners[:-1]).mean() - 1 / 3) < 0.06
        assert abs(np.corrcoef(np.repeat(np.arange(5), epochs), partners.T.ravel())[0, 1]) < 0.12

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 40), (20, 20), (31, 7)])
    def test_small_images_are_reflected_to_the_crop(self, size):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        crop = random_crop(image, 20, np.random.default_rng(1), hflip=False, vflip=False, rot=False)
        padding = [(0, max(20 - length, 0)) for length in size]
        assert find(crop, np.pad(image, [*padding, (0, 0)], mode="reflect"))


class TestDeterminism:
    def test_depends_on_seed_epoch_and_draw_only(self, roots):
        dataset = UnpairedImageDataset(options(roots))
        again = UnpairedImageDataset(options(roots, seed=0))
        other = UnpairedImageDataset(options(roots, manual_seed=1))
        np.random.seed(5)  # noqa: NPY002  the global generators must not matter
        torch.manual_seed(5)
        assert all(equal(dataset[i], again[i]) for i in range(5))
        assert not any(torch.equal(dataset[i]["lq"], other[i]["lq"]) for i in range(5))
        for same in (SampleIndex(2, epoch=0, draw=2), np.int64(2)):
            assert equal(dataset[2], dataset[same])
        for index in (SampleIndex(2, epoch=1, draw=2), SampleIndex(2, epoch=0, draw=7)):
            assert not torch.equal(dataset[2]["lq"], dataset[index]["lq"])

    def test_neither_workers_nor_the_kind_of_store_nor_a_validation_between_matter(self, roots):
        folder, store = (UnpairedImageDataset(options(roots, backend)) for backend in ("disk", "lmdb"))
        val = UnpairedImageDataset(options(roots, "lmdb", phase="val"))
        assert [os.path.relpath(path, roots["lmdb"][0]) for path in store.paths] == [name[:-4] for name in RAINY]
        indices = epoch_indices(5, epoch=3, ratio=2)
        expected = load(folder, indices)
        for dataset in (folder, store):
            for workers in (0, 1, 2):
                context = "fork" if workers else None
                batches = DataLoader(
                    dataset, sampler=indices, batch_size=2, num_workers=workers, multiprocessing_context=context
                )
                for batch, reference in zip(batches, expected, strict=True):
                    assert equal(batch, reference)
                    assert list(map(stem, batch["gt_path"])) == list(map(stem, reference["gt_path"]))
                assert len(list(val)) == len(RAINY)

    def test_cache_changes_nothing_and_stays_behind(self, roots):
        plain, cached = UnpairedImageDataset(options(roots)), UnpairedImageDataset(options(roots, cache=True))
        for epoch in range(2):
            for index in epoch_indices(5, epoch=epoch):
                sample = cached[index]
                assert equal(sample, plain[index])
                sample["lq"].zero_()
                sample["gt"].zero_()
        assert len(pickle.dumps(cached)) < 10_000


class TestInput:
    @pytest.mark.parametrize("phase", ["val", "test"])
    @pytest.mark.parametrize("backend", ["disk", "lmdb"])
    def test_validation_gives_whole_rainy_images_and_no_ground_truth(self, roots, phase, backend):
        for changes in ({}, {"dataroot_gt": None, "gt_size": None, "cache": True}):
            dataset = UnpairedImageDataset(options(roots, backend, phase=phase, **changes))
            for i, name in enumerate(RAINY):
                sample = dataset[i]
                assert sample.keys() == {"lq", "lq_path"}
                np.testing.assert_array_equal(to_uint8(sample["lq"]), read(roots["disk"][0] / name))

    def test_a_broken_file_is_named_or_the_next_image_takes_its_place(self, tmp_path):
        rainy, clean = write_folder(tmp_path / "rainy", RAINY, seed=0), write_folder(tmp_path / "clean", CLEAN, seed=1)
        opt = options({"disk": (rainy, clean)})
        skipping = UnpairedImageDataset({**opt, "on_error": "skip"})
        before = [skipping[i] for i in range(len(skipping))]
        assert all(sample["skipped"] == "" for sample in before)
        (rainy / RAINY[1]).write_bytes(b"broken")
        with pytest.raises(InputError, match=r"rainy/a/001\.png: cannot be decoded"):
            UnpairedImageDataset(opt)[1]
        sample = skipping[1]
        assert (sample["lq_path"], sample["skipped"]) == (skipping.paths[2], skipping.paths[1])
        assert sample["gt_path"] == before[1]["gt_path"]
        assert all(skipping[i]["lq"].equal(before[i]["lq"]) for i in (0, 2, 3, 4))
        for name in CLEAN:
            (clean / name).write_bytes(b"broken")
        with pytest.raises(InputError, match="none of its 3 images can be read"):
            skipping[0]


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"phase": "training"}, "phase: got 'training', expected 'train'"),
            ({"gt_size": None}, "gt_size: it is missing, expected a whole number of at least 1"),
            ({"use_vflip": 1}, "use_vflip: got 1, expected true or false"),
            ({"io_backend": {"type": "s3"}}, r"io_backend: got \{'type': 's3'\}, expected .*'type: disk'"),
            ({"dataroot_lq": None}, "dataroot_lq: it is missing, expected the path"),
            ({"io_backend": {"type": "lmdb"}}, r"dataroot_gt: got '.*clean', expected .* ends in \.lmdb"),
            ({"dataroot_lq": "x.lmdb"}, r"dataroot_lq: got 'x\.lmdb', expected a folder of images"),
            ({"dataroot_lq": "nowhere"}, "nowhere: no such folder"),
        ],
    )
    def test_wrong_ones_are_named_in_one_line(self, roots, changes, message):
        with pytest.raises(InputError, match=message) as caught:
            UnpairedImageDataset(options(roots, **changes))
        assert "\n" not in str(caught.value)
