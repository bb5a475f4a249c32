"""Whatever way an image is taken in parts, the result is that of the whole image."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from nlcl_plugin.archs import LayerGenerator, ResidualUNet, SimpleGateUNet
from nlcl_plugin.models import any_size
from nlcl_plugin.models.any_size import infer, parts


def network(cls, **options):
    torch.manual_seed(0)
    return cls(**options).double().eval().requires_grad_(False)


@pytest.mark.parametrize(
    "net",
    [
        network(LayerGenerator, num_feat=4, num_block=2),
        network(LayerGenerator, num_feat=4, num_block=2, layer="residual", num_out_ch=1),
        network(ResidualUNet, num_feat=4),
        network(SimpleGateUNet, num_feat=4),
    ],
    ids=["image", "residual", "u-net", "whole"],
)
def test_an_image_in_parts_gives_the_result_of_the_whole(net, monkeypatch):
    monkeypatch.setattr(any_size, "TILE", 32)
    image, calls = torch.rand(1, 3, 75, 53, dtype=torch.float64), []
    torch.testing.assert_close(infer(net, image, tell=lambda: calls.append(1)), net(image), rtol=0, atol=1e-10)
    assert len(calls) == parts(net, image)


def test_feature_maps_that_do_not_fit_go_to_files_that_are_gone_afterwards(tmp_path):
    net, image, said, files = network(LayerGenerator, num_feat=4, num_block=2), torch.rand(1, 3, 30, 41), [], []
    net, image = net.float(), image.float()
    result = infer(
        net,
        image,
        memory=1000,
        scratch=tmp_path,
        say=said.append,
        tell=lambda: files.append(Path("/proc/self/maps").read_text().count("features (deleted)")),
    )
    torch.testing.assert_close(result, net(image), rtol=0, atol=1e-5)
    assert files[0] == 2  # mapped, and without a name that a kill would leave
    assert len(said) == 1
    assert "exceed half of the free memory" in said[0]
    assert not os.listdir(tmp_path)


def test_a_network_with_windows_gets_a_multiple_of_them():
    def net(x):
        assert x.shape[-1] % 8 == x.shape[-2] % 8 == 0
        return x * 2

    image = torch.rand(1, 3, 13, 21)
    assert torch.equal(infer(net, image, window=8), image * 2)


@pytest.mark.slow
def test_a_4k_image_takes_less_than_2_5_gb_above_the_imports():
    script = """
import resource, torch
from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.models.any_size import infer
net = LayerGenerator().eval()
infer(net, torch.rand(1, 3, 64, 64))
image = torch.rand(1, 3, 2160, 3840)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
infer(net, image)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert float(found.stdout) < 2500


def test_free_memory_where_there_are_no_control_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(any_size, "_ROOT", tmp_path)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=7_000_000))
    assert any_size.free_memory(torch.device("cpu")) == 7_000_000


@pytest.mark.parametrize(
    ("line", "folder", "files"),
    [
        ("0::/slurm/job_1/step_0", "", ("memory.max", "memory.current")),
        ("4:cpu,memory:/slurm/job_1/step_0", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
        ("0::/host/names", "", ("memory.max", "memory.current")),
    ],
)
def test_no_more_memory_is_free_than_a_job_or_container_may_take(tmp_path, monkeypatch, line, folder, files):
    monkeypatch.setattr(any_size, "_ROOT", tmp_path)
    job = tmp_path / "sys/fs/cgroup" / folder / ("slurm/job_1" if "slurm" in line else "")
    (job / "step_0").mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:name=systemd:/\n{line}\n")
    (job / files[0]).write_text("5000000\n")
    (job / files[1]).write_text("2000000\n")
    (job / "step_0" / files[0]).write_text("max\n")
    (job / "step_0" / files[1]).write_text("1000000\n")
    assert any_size.free_memory(torch.device("cpu")) == 3_000_000
