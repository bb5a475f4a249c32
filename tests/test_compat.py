"""Each repair of BasicSR, shown on the stock code it mends."""

import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.models import base_model
from torch.utils.data import Dataset

from nlcl_plugin import compat
from nlcl_plugin.data.sampler import SampleIndex
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


def test_sampler_keeps_the_stock_order_and_tells_the_epoch():
    sampler = EnlargedSampler(range(5), num_replicas=1, rank=0, ratio=2)
    sampler.set_epoch(3)
    drawn = list(sampler)
    generator = torch.Generator().manual_seed(3)
    assert drawn == [v % 5 for v in torch.randperm(10, generator=generator).tolist()]
    assert all(isinstance(index, SampleIndex) and index.epoch == 3 for index in drawn)


def test_grey_conversion_is_torchvisions():
    from torchvision.transforms.functional import rgb_to_grayscale

    assert sys.modules["torchvision.transforms.functional_tensor"].rgb_to_grayscale is rgb_to_grayscale


def test_stock_models_load_plain_values_no_larger_than_their_file(tmp_path):
    net = torch.nn.Conv2d(3, 4, 3)
    torch.save({"params": net.state_dict()}, tmp_path / "net.pth")
    loaded = base_model.torch.load(tmp_path / "net.pth", map_location=lambda storage, _: storage)
    torch.testing.assert_close(dict(loaded["params"]), dict(net.state_dict()))
    torch.save({"params": {"weight": torch.ones(1).expand(10**9)}}, tmp_path / "bomb.pth")
    with pytest.raises(InputError, match=r"bomb\.pth: torn, or not a checkpoint .*but not so many values"):
        base_model.torch.load(tmp_path / "bomb.pth")


FULL_DISK = """
import resource, signal
import nlcl_plugin, torch
from basicsr.models.base_model import BaseModel
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
model = BaseModel({"num_gpu": 0, "is_train": True, "path": {"models": "."}})
model.save_network(torch.nn.Linear(100, 100), "net_g", 1)
print("went on")
"""


def test_a_network_that_cannot_be_saved_ends_the_run_and_spares_the_one_before(tmp_path):
    (tmp_path / "net_g_1.pth").write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", FULL_DISK], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "InputError: ./net_g_1.pth: cannot be saved (" in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]
