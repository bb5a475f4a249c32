"""Each repair of BasicSR, shown on the stock code it mends."""

import random
import resource
import signal
import sys
import warnings

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from basicsr.data import build_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.metrics import calculate_psnr
from basicsr.models import base_model
from basicsr.models.video_recurrent_model import VideoRecurrentModel
from basicsr.utils import tensor2img
from basicsr.utils.registry import ARCH_REGISTRY
from torch.utils.data import DataLoader, Dataset

from nlcl_plugin import compat
from nlcl_plugin.errors import InputError


class Numbers(Dataset):
    """Random numbers as a stock dataset draws them: from the global generators."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002


def test_repairing_twice_changes_nothing():
    before = (EnlargedSampler.__iter__, sys.modules["torchvision.transforms.functional_tensor"])
    compat.repair_basicsr()
    assert (EnlargedSampler.__iter__, sys.modules["torchvision.transforms.functional_tensor"]) == before


def test_loader_workers_draw_anew_in_every_epoch_and_alike_for_the_same_seed():
    def epochs(seed):
        torch.manual_seed(seed)
        options = {"phase": "train", "batch_size_per_gpu": 2, "num_worker_per_gpu": 1}
        loader = build_dataloader(Numbers(), options, num_gpu=0, sampler=None, seed=0)
        return [[torch.stack(batch).tolist() for batch in loader] for _ in range(2)]

    first, second = epochs(0)
    assert first != second
    assert epochs(0) == [first, second]


def test_a_network_that_cannot_be_saved_ends_the_run_and_spares_the_one_before(tmp_path):
    (tmp_path / "net_g_1.pth").write_bytes(b"before")
    model = base_model.BaseModel({"num_gpu": 0, "is_train": True, "path": {"models": str(tmp_path)}})
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, limits[1]))  # as on a full disk
    try:
        with pytest.raises(InputError, match=r"/net_g_1.pth: cannot be saved \(.*--auto_resume"):
            model.save_network(torch.nn.Linear(100, 100), "net_g", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def options_of(folder, **more):
    return {
        **{"dataroot_lq": str(folder / "lq"), "dataroot_gt": str(folder / "gt"), "io_backend": {"type": "disk"}},
        **{"phase": "val", "scale": 1, **more},
    }


def write(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())


@pytest.mark.parametrize(
    ("rainy", "clean", "template", "pairs"),
    [
        ("b/0.png a/0.png", "a/0.png b/0.png", "{}", "a/0.png:a/0.png b/0.png:b/0.png"),
        ("0.png 0.jpg", "0.jpg 0.png", "{}", "0.jpg:0.jpg 0.png:0.png"),
        ("n/0x4.png", "n/0.png", "{}x4", "n/0x4.png:n/0.png"),
    ],
)
def test_stock_pairs_have_one_path_but_for_the_ending(tmp_path, rainy, clean, template, pairs):
    write(tmp_path / "lq", *rainy.split())
    write(tmp_path / "gt", *clean.split())
    dataset = PairedImageDataset(options_of(tmp_path, filename_tmpl=template))
    found = [[path.removeprefix(f"{tmp_path}/") for path in pair.values()] for pair in dataset.paths]
    assert found == [
        [f"{key}/{name}" for key, name in zip(("lq", "gt"), pair.split(":"), strict=True)] for pair in pairs.split()
    ]
    assert dataset[0]["gt"].shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("rainy", "clean", "alone"), [("0.png 1.png", "0.png", "1.png"), ("0.png 0.jpg", "0.bmp 1.bmp", "0.bmp")]
)
def test_stock_pairs_without_a_clear_partner_are_refused(tmp_path, rainy, clean, alone):
    write(tmp_path / "lq", *rainy.split())
    write(tmp_path / "gt", *clean.split())
    with pytest.raises(InputError, match=f"images have no partner, or several, such as {alone};"):
        PairedImageDataset(options_of(tmp_path))


def test_the_former_names_of_scipys_filters_are_scipys():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from scipy.ndimage import filters
        from scipy.ndimage.filters import convolve
    assert (convolve, filters.gaussian_filter) == (scipy.ndimage.convolve, scipy.ndimage.gaussian_filter)


def test_a_network_that_aligns_frames_is_the_same_without_a_gpu():
    names = ARCH_REGISTRY.get("BasicVSRPlusPlus")(mid_channels=16, num_blocks=1).state_dict()
    assert {name.split(".")[1] for name in names if name.startswith("deform_align")} == {
        "backward_1", "forward_1", "backward_2", "forward_2"
    }  # fmt: skip


class Clips(Dataset):
    """Two clips of three frames, as BasicSR's datasets of videos give them: the cached tensors themselves."""

    def __init__(self, name, seed):
        generator = torch.Generator().manual_seed(seed)
        self.opt, self.folders = {"name": name}, [f"{name}{i}" for i in range(2)]
        self.data_info = {"folder": [folder for folder in self.folders for _ in range(3)]}
        self.frames = {folder: torch.rand(3, 3, 16, 16, generator=generator) for folder in self.folders}

    def __len__(self):
        return 2

    def __getitem__(self, index):
        folder = self.folders[index]
        return {"lq": self.frames[folder], "gt": self.frames[folder].clone(), "folder": folder}


class Darker(torch.nn.Module):
    def forward(self, frames):
        return frames * 0.5


def test_videos_are_validated_on_a_cpu_set_by_set():
    metrics = {"psnr": {"type": "calculate_psnr", "crop_border": 0}}
    model = VideoRecurrentModel.__new__(VideoRecurrentModel)
    options = {"num_gpu": 0, "is_train": True, "dist": False, "val": {"metrics": metrics}}
    model.opt, model.device, model.net_g = options, torch.device("cpu"), Darker()
    for clips in (Clips("reds4", 0), Clips("vid4", 1)):
        model.validation(DataLoader(clips), 1, None)
        expected = []
        for frames in clips.frames.values():
            assert frames.shape == (3, 3, 16, 16)
            pairs = [(tensor2img(frame), tensor2img(frame * 0.5)) for frame in frames]
            expected += [calculate_psnr(*pair, crop_border=0) for pair in pairs]
        assert model.metric_results == {"psnr": pytest.approx(np.mean(expected), rel=1e-6)}
