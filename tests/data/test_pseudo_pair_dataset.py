import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from unpaired_helpers import epoch_indices, pack, write_folder

from nlcl_plugin.data.image_io import read_image, to_tensor, write_image
from nlcl_plugin.data.pseudo_pair_dataset import PseudoPairDataset
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.errors import InputError

CLEAN = ["x/000.png", "x/001.png", "y.png"]
RAIN = ["000.png", "002.png", "003.png", "a/001.png"]  # sorted, as a folder is
PLAIN = {"gain": [1.0, 1.0], "threshold": 0.0, "resize": [1, 1], "flip": False, "rain_free": 0.0}
SIZE = (12, 17)


def write_layers(root, names, seed, size=SIZE):
    """Grey rain on black, no brighter than 100: on images no brighter than that, nothing is clipped."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        layer = (rng.integers(20, 101, size) * (rng.random(size) < 0.3)).astype(np.uint8)
        assert cv2.imwrite(str(root / name), layer)
    return root


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    root = tmp_path_factory.mktemp("pseudo")
    rng = np.random.default_rng(3)
    for name in CLEAN:
        write_image(root / "clean" / name, rng.integers(0, 101, (*SIZE, 3), dtype=np.uint8))
    for kind, names in (("clean", CLEAN), ("rain", RAIN)):
        folder = root / kind if kind == "clean" else write_layers(root / kind, names, 4)
        pack(folder, names)
    return root


def options(roots, **changes):
    opt = {
        "name": "pairs",
        "type": "PseudoPairDataset",
        "phase": "train",
        "dataroot_gt": str(roots / "clean"),
        "dataroot_rain": str(roots / "rain.lmdb"),
        "gt_size": 8,
        "use_hflip": True,
        "layers": 2,
        "manual_seed": 5,
    }
    return {**opt, **changes}


def whole(roots, **changes):
    """Options by which a sample is all of its image, and its rain all of a layer: no place is drawn."""
    for kind in ("clean", "rain"):
        folder = roots / f"square_{kind}"
        if not folder.exists():
            names = CLEAN if kind == "clean" else RAIN
            for name in names:
                image = cv2.imread(str(roots / kind / name), cv2.IMREAD_UNCHANGED)[:12, :12]
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / name), image)
    squares = {"dataroot_gt": str(roots / "square_clean"), "dataroot_rain": str(roots / "square_rain")}
    return options(roots, **squares, gt_size=12, use_hflip=False, layers=1, **{**PLAIN, **changes})


def read(path):
    return to_tensor(read_image(path))


def many(dataset, epochs=40):
    return [dataset[SampleIndex(i, epoch=epoch, draw=i)] for epoch in range(epochs) for i in range(len(dataset))]


def same(one, other):
    return torch.equal(one["lq"], other["lq"]) and torch.equal(one["gt"], other["gt"])


class TestPairs:
    def test_the_difference_is_the_layer_and_the_target_the_clean_image(self, roots):
        dataset = PseudoPairDataset(whole(roots))
        assert len(dataset) == len(CLEAN)
        assert dataset.paths == [str(roots / "square_clean" / name) for name in CLEAN]
        seen = set()
        for sample in many(dataset):
            assert sample.keys() == {"lq", "gt", "lq_path", "gt_path"}
            assert torch.equal(sample["gt"], read(sample["gt_path"]))
            torch.testing.assert_close(sample["lq"] - sample["gt"], read(sample["lq_path"]))
            seen.add(sample["lq_path"])
        assert seen == {str(roots / "square_rain" / name) for name in RAIN}

    @pytest.mark.parametrize("change", [{"structure": 1.0}, {"noise": 0.1}, {"sharpen": 2.0}, {"jpeg": 1.0}])
    def test_structure_and_what_a_camera_does_are_the_same_on_both_images(self, roots, change):
        opt = options(roots, rendered=1, renderer="photograph", rain_free=1.0)
        plain = many(PseudoPairDataset(opt), epochs=2)
        changed = many(PseudoPairDataset({**opt, **change}), epochs=2)
        assert all(torch.equal(sample["lq"], sample["gt"]) for sample in changed)
        other = [not torch.equal(one["gt"], two["gt"]) for one, two in zip(plain, changed, strict=True)]
        assert np.mean(other) >= (0.5 if "structure" in change else 1.0)  # some is drawn outside of so small a crop

    def test_rendered_rain_comes_as_often_as_asked_for_and_needs_no_bank(self, roots):
        samples = many(PseudoPairDataset(options(roots, rendered=0.3)), epochs=40)
        assert abs(np.mean([sample["lq_path"] == "rendered" for sample in samples]) - 0.3) < 0.13  # 3 sigma
        opt = options(roots, rendered=1, gt_size=32, layers=1, rain_free=0.0)
        del opt["dataroot_rain"]
        samples = many(PseudoPairDataset(opt), epochs=5)
        rained = [sample["lq"] - sample["gt"] for sample in samples]
        assert all(difference.min() >= 0 for difference in rained)
        assert np.mean([difference.max() > 0.1 for difference in rained]) > 0.8
        assert not torch.equal(rained[0], rained[len(CLEAN)])

    def test_layers_of_several_banks_are_drawn_equally_often(self, roots, tmp_path):
        more = write_layers(tmp_path / "more", ["0.png"], 9)
        colour = write_folder(tmp_path / "colour", ["c.png"], 10)
        banks = [str(roots / "rain.lmdb"), str(more), str(colour)]
        samples = many(PseudoPairDataset(options(roots, dataroot_rain=banks)), epochs=100)
        names, counts = np.unique([sample["lq_path"] for sample in samples], return_counts=True)
        assert len(names) == 6
        assert ((counts - 50) ** 2 / 50).sum() < 20.5  # chi-square with 5 degrees of freedom: once in a thousand


class TestDeterminism:
    def test_neither_workers_nor_cache_nor_the_kind_of_store_matter(self, roots):
        stored = options(roots, rendered=0.3, dataroot_gt=str(roots / "clean.lmdb"), io_backend={"type": "lmdb"})
        folders = options(roots, rendered=0.3, dataroot_rain=str(roots / "rain"))
        indices = epoch_indices(3, epoch=2, ratio=4)

        def load(opt, **loader):
            return list(DataLoader(PseudoPairDataset(opt), sampler=indices, batch_size=4, **loader))

        workers = {"num_workers": 2, "multiprocessing_context": "fork"}
        for batches in (load(stored), load({**stored, "cache": True}), load(stored, **workers)):
            assert all(same(one, other) for one, other in zip(batches, load(folders), strict=True))


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"phase": "val"}, "phase: got 'val', expected 'train'"),
            ({"dataroot_rain": None}, "dataroot_rain: it is missing, expected .*basicsr bank.*rendered: 1"),
            ({"dataroot_rain": "nowhere.lmdb"}, r"nowhere\.lmdb: no such folder"),
            ({"renderer": "fog"}, "renderer: got 'fog': Input should be 'demo' or 'photograph'"),
            ({"renderer": "photograph"}, "renderer: photograph renders nothing with rendered: 0; set rendered"),
            ({"gain": [2, 1]}, r"gain must be \[low, high\] .* received \[2\.0, 1\.0\]"),
        ],
    )
    def test_wrong_ones_are_named(self, roots, changes, message):
        with pytest.raises(InputError, match=message) as caught:
            PseudoPairDataset(options(roots, **changes))
        assert "\n" not in str(caught.value)
