"""The pretended device itself: it refuses and records what it should."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretended_device import waits


def test_the_device_refuses_what_a_gpu_refuses(device):
    x = torch.rand(2, 3).to(device)
    for fault in (
        lambda: x + torch.zeros(2, 3),
        lambda: F.linear(x, torch.ones(1, 3)),
        lambda: torch.cat([x, torch.rand(1, 3)]),
    ):
        with pytest.raises(RuntimeError, match="same device"):
            fault()
    for fault in (x.numpy, lambda: np.asarray(x)):
        with pytest.raises(TypeError, match="numpy"):
            fault()
    assert torch.equal((x + torch.tensor(1.0)).cpu(), x.cpu() + 1)


def test_every_wait_is_recorded(device):
    x = torch.rand(3).to(device, non_blocking=True)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    assert (x * 2).sum().device == x[index].device == device
    assert waits == []
    reads = (lambda: x.sum().item(), lambda: bool(x[0] > 2), lambda: int(x[0]), x.tolist, x.cpu, x.nonzero,
             lambda: x[x > 0.5], x.unique, lambda: torch.ones(1).to(device), lambda: torch.tensor([1.0], device=device),
             lambda: x[torch.tensor([0])])  # fmt: skip
    for number, read in enumerate(reads, start=1):
        read()
        assert len(waits) == number, (number, waits)
