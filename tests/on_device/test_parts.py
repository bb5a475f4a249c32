"""Each network and loss on a pretended device: the values and gradients of the CPU, and no wait."""

import copy

import pytest
import torch
from pretended_device import DeviceTensor, waits
from test_gpu_speed import LOSSES, NETS, outputs

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [*NETS, *LOSSES])
def test_values_and_gradients_are_those_of_the_cpu_without_a_wait(device, name):
    torch.manual_seed(0)
    module = {**NETS, **LOSSES}[name]()
    vectors = [torch.nn.functional.normalize(torch.rand(2, 6, 8), dim=-1) for _ in range(2)]
    inputs = [torch.rand(1, 3, 32, 32)] if name in NETS else vectors
    found = []
    for where in (CPU, device):
        moved, there = copy.deepcopy(module).to(where), [x.clone().to(where).requires_grad_() for x in inputs]
        waits.clear()
        values = outputs(moved(*there) if name in (*NETS, "relay") else moved(*([x] for x in there)))
        sum(value.square().sum() for value in values).backward()
        assert waits == []
        assert all(isinstance(value, DeviceTensor) == (where is device) for value in values)
        gradients = [x.grad for x in (*there, *moved.parameters()) if x.grad is not None]
        found.append([x.detach().cpu() for x in (*values, *gradients)])
    torch.testing.assert_close(*found)
