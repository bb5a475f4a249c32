import os
import pickle
from collections import Counter

import cv2
import numpy as np
import pytest
from unpaired_helpers import CLEAN, RAINY, epoch_indices, make_roots, options, write_folder

from nlcl_plugin.data.crops import reflect_to
from nlcl_plugin.data.unpaired_image_dataset import UnpairedImageDataset
from nlcl_plugin.errors import InputError


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    return make_roots(tmp_path_factory.mktemp("unpaired"))


class TestValidation:
    @pytest.mark.parametrize("phase", ["val", "test"])
    @pytest.mark.parametrize("backend", ["disk", "lmdb"])
    def test_gives_whole_rainy_images_and_no_ground_truth(self, roots, phase, backend):
        opt = options(roots, backend, phase=phase, cache=True)
        for key in ("dataroot_gt", "gt_size"):
            del opt[key]
        for dataset in (UnpairedImageDataset(opt), UnpairedImageDataset(options(roots, backend, phase=phase))):
            for i, name in enumerate(RAINY):
                sample = dataset[i]
                assert sample.keys() == {"lq", "lq_path"}
                data = np.fromfile(roots["disk"][0] / name, np.uint8)
                whole = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].transpose(2, 0, 1)
                np.testing.assert_array_equal(sample["lq"].numpy(), whole.astype(np.float32) / 255)


class TestSmallImages:
    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 40), (12, 7)])
    def test_are_reflected_to_the_crop(self, tmp_path, size):
        rainy = write_folder(tmp_path / "rainy", ["a.png"], 1, size)
        clean = write_folder(tmp_path / "clean", ["b.png"], 2, size)
        sample = UnpairedImageDataset(options({"disk": (rainy, clean)}, gt_size=20))[0]
        assert sample["lq"].shape == sample["gt"].shape == (3, 20, 20)

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (5, 40), (20, 20), (31, 7)])
    def test_reflection_is_that_of_numpy(self, size):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        padding = [(0, max(20 - length, 0)) for length in size]
        np.testing.assert_array_equal(reflect_to(image, 20), np.pad(image, [*padding, (0, 0)], mode="reflect"))


class TestFiles:
    def test_mixed_kinds_in_upper_case_and_equal_names_in_sub_folders(self, tmp_path):
        rng = np.random.default_rng(0)
        kinds = {
            "a/X.PNG": (rng.integers(0, 256, (9, 9, 4), dtype=np.uint8), ".png"),
            "b/X.PNG": (rng.integers(0, 65536, (9, 9, 3), dtype=np.uint16), ".png"),
            "b/grey.TIF": (rng.integers(0, 256, (9, 9), dtype=np.uint8), ".tif"),
            "c/X.JPG": (rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), ".jpg"),
            "c/float.Tiff": (rng.random((9, 9, 3)).astype(np.float32), ".tiff"),
        }
        for name, (array, ending) in kinds.items():
            path = tmp_path / "rainy" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(ending, array)[1].tobytes())
        clean = write_folder(tmp_path / "clean", ["a.png"], 0)
        dataset = UnpairedImageDataset(options({"disk": (tmp_path / "rainy", clean)}, cache=True))
        assert [os.path.relpath(path, tmp_path / "rainy") for path in dataset.paths] == list(kinds)
        for epoch in range(2):
            for sample in (dataset[index] for index in epoch_indices(5, epoch=epoch)):
                assert sample["lq"].shape == (3, 8, 8)
                assert 0 <= sample["lq"].min() < sample["lq"].max() <= 1
        assert Counter(os.path.basename(path) for path in dataset.paths)["X.PNG"] == 2

    def test_home_folder_and_closing_slash(self, roots, monkeypatch):
        monkeypatch.setenv("HOME", str(roots["disk"][0].parent))
        paths = UnpairedImageDataset(options(roots, dataroot_lq="~/rainy/", dataroot_gt="~/clean//")).paths
        assert paths == UnpairedImageDataset(options(roots)).paths
        store = UnpairedImageDataset(options(roots, "lmdb", dataroot_lq="~/rainy.lmdb/"))
        assert store.paths == UnpairedImageDataset(options(roots, "lmdb")).paths

    def test_a_broken_file_is_named(self, tmp_path):
        rainy, clean = write_folder(tmp_path / "rainy", ["a.png"], 1), write_folder(tmp_path / "clean", ["b.png"], 2)
        dataset = UnpairedImageDataset(options({"disk": (rainy, clean)}))
        (clean / "b.png").write_bytes(b"no image")
        with pytest.raises(InputError, match=r"clean/b\.png: cannot be decoded"):
            dataset[0]
        (rainy / "a.png").unlink()
        with pytest.raises(InputError, match=r"rainy/a\.png: cannot be read"):
            dataset[0]


class TestOptions:
    def test_are_kept_as_they_are(self, roots):
        opt = options(roots, manual_seed=None, use_rot=None, scale=1)
        before = pickle.dumps(opt)
        assert UnpairedImageDataset(opt).opt is opt
        assert pickle.dumps(opt) == before
        assert opt.keys() - {"batch_size_per_gpu"} <= set(UnpairedImageDataset.OPTION_KEYS)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"phase": "training"}, r"phase: got 'training', expected 'train', 'val' or 'test'"),
            ({"scale": 4}, r"scale: got 4, expected 1"),
            ({"gt_size": None}, r"gt_size: it is missing, expected a whole number of at least 1"),
            ({"gt_size": 0}, r"gt_size: got 0, expected a whole number"),
            ({"gt_size": "256"}, r"gt_size: got '256'"),
            ({"gt_size": True}, r"gt_size: got True"),
            ({"use_hflip": "yes"}, r"use_hflip: got 'yes', expected true or false"),
            ({"use_vflip": 1}, r"use_vflip: got 1, expected true or false"),
            ({"use_rot": "~"}, r"use_rot: got '~', expected true or false"),
            ({"cache": "disk"}, r"cache: got 'disk', expected true or false"),
            ({"manual_seed": -1}, r"manual_seed: got -1, expected a whole number of at least 0"),
            ({"seed": 0.5}, r"seed: got 0\.5"),
            ({"io_backend": {"type": "s3"}}, r"io_backend: got \{'type': 's3'\}, expected .*'type: disk'"),
            ({"io_backend": "disk"}, r"io_backend: got 'disk', expected a block"),
            ({"dataroot_lq": None}, r"dataroot_lq: it is missing, expected the path"),
            ({"dataroot_gt": ""}, r"dataroot_gt: got '', expected the path"),
            ({"io_backend": {"type": "lmdb"}}, r"dataroot_gt: got '.*clean', expected a folder that ends in \.lmdb"),
            ({"dataroot_lq": "x.lmdb"}, r"dataroot_lq: got 'x\.lmdb', expected a folder of images"),
            ({"dataroot_lq": "nowhere"}, r"nowhere: no such folder"),
        ],
    )
    def test_wrong_ones_are_named(self, roots, changes, message):
        with pytest.raises(InputError, match=message) as caught:
            UnpairedImageDataset(options(roots, **changes))
        assert "\n" not in str(caught.value)

    def test_the_end_is_an_index_error(self, roots):
        dataset = UnpairedImageDataset(options(roots))
        for index in (5, -1):
            with pytest.raises(IndexError, match=f"index {index} of 5 images"):
                dataset[index]


class TestSkipping:
    def test_the_next_image_takes_the_place_of_a_broken_one(self, tmp_path):
        rainy = write_folder(tmp_path / "rainy", RAINY, seed=0)
        clean = write_folder(tmp_path / "clean", CLEAN, seed=1)
        options = {"phase": "train", "dataroot_lq": str(rainy), "dataroot_gt": str(clean), "gt_size": 8}
        whole = UnpairedImageDataset({**options, "on_error": "skip"})
        before = [whole[i] for i in range(len(whole))]
        assert all(sample["skipped"] == "" for sample in before)

        (rainy / RAINY[1]).write_bytes(b"broken")
        with pytest.raises(InputError, match="001"):
            UnpairedImageDataset(options)[1]
        skipping = UnpairedImageDataset({**options, "on_error": "skip"})
        sample = skipping[1]
        assert sample["lq_path"] == skipping.paths[2]
        assert sample["skipped"] == skipping.paths[1]
        assert sample["gt_path"] == before[1]["gt_path"]
        assert all(skipping[i]["lq"].equal(before[i]["lq"]) for i in (0, 2, 3, 4))

    def test_a_folder_of_broken_images_alone_is_an_error(self, tmp_path):
        rainy = write_folder(tmp_path / "rainy", RAINY, seed=0)
        clean = write_folder(tmp_path / "clean", CLEAN, seed=1)
        for name in CLEAN:
            (clean / name).write_bytes(b"broken")
        options = {"phase": "train", "dataroot_lq": str(rainy), "dataroot_gt": str(clean), "gt_size": 8}
        with pytest.raises(InputError, match="none of its 3 images can be read"):
            UnpairedImageDataset({**options, "on_error": "skip"})[0]
