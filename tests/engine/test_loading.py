"""Faults of single files."""

import itertools
import multiprocessing
import signal
import time

import cv2
import pytest
from basicsr.data.paired_image_dataset import PairedImageDataset
from conftest import photograph
from torch.utils.data import DataLoader

from nlcl_plugin.engine import loaders, loading
from nlcl_plugin.errors import InputError


class Dataset:
    def __init__(self, paths):
        self.paths = paths


def test_the_workers_of_a_training_end_on_systems_without_sigchld_too(monkeypatch):
    monkeypatch.delattr(signal, "SIGCHLD", raising=False)  # Windows
    worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,), daemon=True)
    worker.start()
    loaders._end_workers()
    worker.join(timeout=30)
    assert worker.exitcode == -signal.SIGKILL


def test_the_unreadable_file_is_named(tmp_path):
    cv2.imwrite(str(tmp_path / "good.png"), photograph(8, 8))
    (tmp_path / "bad.png").write_bytes(b"no image")
    dataset = Dataset([str(tmp_path / "good.png"), {"lq_path": str(tmp_path / "bad.png")}])
    with pytest.raises(InputError, match="not a readable image"), loading.explained(dataset):
        raise AttributeError


def test_a_fault_of_no_file_is_told_soon_however_many_files_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "LIMIT", 0.2)
    cv2.imwrite(str(tmp_path / "good.png"), photograph(8, 8))
    endless = Dataset(itertools.repeat(str(tmp_path / "good.png")))
    with pytest.raises(RuntimeError, match="out of memory"), loading.explained(endless):
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("workers", [0, 1])
def test_pairs_that_do_not_fit_each_other_are_told_in_one_line(tmp_path, workers):
    for folder in ("lq", "gt"):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "a.png"), photograph(16, 24))
    options = {
        **{"io_backend": {"type": "disk"}, "dataroot_lq": str(tmp_path / "lq"), "dataroot_gt": str(tmp_path / "gt")},
        **{"phase": "train", "scale": 2, "gt_size": 8, "use_hflip": False, "use_rot": False},
    }
    dataset = PairedImageDataset(options)
    message = r"PairedImageDataset: .*GT \(16, 24\) is not 2x "
    with pytest.raises(InputError, match=message) as caught, loading.explained(dataset):
        next(iter(DataLoader(dataset, num_workers=workers)))
    assert "\n" not in str(caught.value)
