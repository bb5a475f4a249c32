"""Freed memory is kept for the next step: fewer page faults, the same results."""

import platform
import resource

import pytest
import torch
from model_helpers import RESTORER, build, options, step

from nlcl_plugin.training.memory import give_back_freed_memory, keep_freed_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")


@pytest.fixture(autouse=True)
def given_back():
    """Memory is given back, as glibc does by default, whatever trained in this process before."""
    give_back_freed_memory(from_now_on=True)
    yield
    give_back_freed_memory(from_now_on=True)


def page_faults():
    """Of a tensor of 64 MiB, after others of the same size were freed: the free blocks settle within a few."""
    for _ in range(10):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_a_tensor_gets_the_pages_of_those_before_it_until_they_are_given_back():
    fresh = page_faults()
    keep_freed_memory()
    assert page_faults() < fresh / 4
    give_back_freed_memory()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before > fresh / 2
    give_back_freed_memory(from_now_on=True)
    assert page_faults() > fresh / 2


def test_results_are_the_same_bits(tmp_path):
    def train():
        model = build(options(tmp_path, **RESTORER))
        logs = [step(model, i, size=64) for i in (1, 2, 3)]  # the last one is of stage 2
        return logs, [value.clone() for net in model.nets.values() for value in net.parameters()]

    logs, weights = train()
    keep_freed_memory()
    kept_logs, kept_weights = train()
    assert kept_logs == logs
    assert all(map(torch.equal, kept_weights, weights))
