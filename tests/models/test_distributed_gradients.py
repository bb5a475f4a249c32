"""Two processes with half of a batch each take the step of one process with all of it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradients_job import CASES, gradients

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
    job = subprocess.run(
        [*command, HERE / "gradients_job.py", folder], env=environment, capture_output=True, text=True, check=False
    )
    assert job.returncode == 0, job.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def assert_same(found, log, expected, its_log):
    assert any(gradient.abs().max() > 0 for gradient in expected.values())
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert log == pytest.approx(its_log, rel=1e-6)  # in fp32


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_two_processes_are_those_of_one(two_processes, in_double, tmp_path, name):
    expected = gradients(name, tmp_path)
    for found in two_processes:
        assert_same(*found[name], *expected)


@pytest.mark.parametrize("name", ["all, residual", "all, two_branch", "restorer"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(in_double, tmp_path, name):
    expected = gradients(name, tmp_path)
    for parts in (2, 4):
        assert_same(*gradients(name, tmp_path, accumulate=parts), *expected)
