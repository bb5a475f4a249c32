"""Random states, and options to remember and compare."""

import datetime
import doctest
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import photograph
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin.config import option_files
from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.config.option_files import write_options as write_complete_options
from nlcl_plugin.training import run_state
from nlcl_plugin.training.launch import start


def draws():
    """Of every generator, in an odd number, as normal draws come in pairs."""
    normal = [random.gauss(0, 1), float(np.random.standard_normal()), torch.randn(3).tolist()]  # noqa: NPY002
    return [*normal, random.random(), float(np.random.random()), torch.rand(3).tolist()]  # noqa: NPY002


def through_a_file(tmp_path, content):
    torch.save(content, tmp_path / "file")
    return torch.load(tmp_path / "file", map_location="cpu", weights_only=True)


def test_every_generator_goes_on_where_it_was_also_in_another_process(tmp_path):
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    draws()
    torch.save(run_state.capture_random(), tmp_path / "file")
    expected = [draws(), draws()]
    draws()
    run_state.restore_random(torch.load(tmp_path / "file", weights_only=True))
    assert [draws(), draws()] == expected
    code = (
        "import sys, torch; sys.path[:0] = ['tests', 'tests/training']; import test_run_state as t\n"
        f"t.run_state.restore_random(torch.load({str(tmp_path / 'file')!r}, weights_only=True))\n"
        "print([t.draws(), t.draws()])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


@pytest.mark.gpu
def test_generators_of_gpus_go_on_where_they_were(tmp_path):
    state = through_a_file(tmp_path, run_state.capture_random())
    expected = torch.rand(5, device="cuda")
    run_state.restore_random(state)
    assert torch.equal(torch.rand(5, device="cuda"), expected)


def test_state_of_a_machine_with_gpus_is_taken_on_one_without():
    state = run_state.capture_random()
    state["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * (torch.cuda.device_count() + 1)
    expected = draws()
    if not torch.cuda.is_available():
        run_state.restore_random(state)
        assert draws() == expected


def test_one_process_gathers_its_own_and_takes_it_back(tmp_path):
    states = through_a_file(tmp_path, run_state.gather_random())
    assert len(states) == 1
    expected = draws()
    assert run_state.restore_rank(states, 0, 1)
    assert draws() == expected


def test_states_of_other_process_counts_are_left_alone():
    before = draws()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert not run_state.restore_rank(None, 0, 1)
    assert not run_state.restore_rank([run_state.capture_random()] * 2, 0, 1)
    assert torch.equal(torch.rand(3), expected)
    assert before != draws()


GATHER = """
import random, sys
import torch, torch.distributed as dist
import nlcl_plugin
from nlcl_plugin.training import run_state
dist.init_process_group("gloo")
rank = dist.get_rank()
random.seed(rank)
states = run_state.gather_random()
if rank == 0:
    torch.save(states, "states")
dist.barrier()
own = random.random()
assert run_state.restore_rank(torch.load("states", weights_only=True), rank, 2)
assert (states is None) == bool(rank)
print(f"{rank} {own == random.random()} {own}\\n", end="")
dist.destroy_process_group()
"""


def test_each_of_two_processes_takes_back_its_own(tmp_path):
    (tmp_path / "gather.py").write_text(GATHER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "gather.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    expected = [f"{rank} True {random.Random(rank).random()}" for rank in (0, 1)]
    assert sorted(done.stdout.splitlines()) == expected


# options --------------------------------------------------------------------------------------------------------------
def test_options_are_remembered_without_what_belongs_to_one_start(tmp_path):
    opt = {
        "name": "a", "rank": 0, "world_size": 2, "dist": True, "is_train": True, "auto_resume": True,
        "root_path": "/x", "path": {"models": "/x", "log": "/x", "resume_state": "y", "pretrain_network_g": "z"},
        "betas": (0.5, np.float32(0.5)), "count": np.int64(3), "day": datetime.date(2024, 1, 2), "val": None,
    }  # fmt: skip
    options = through_a_file(tmp_path, option_files.plain_options(opt))
    assert options == {
        "name": "a",
        "path": {"pretrain_network_g": "z"},
        "betas": [0.5, 0.5],
        "count": 3,
        "day": "2024-01-02",
        "val": None,
    }
    assert type(options["betas"][1]) is float
    assert opt["rank"] == 0
    assert option_files.plain_options({"path": None}) == {"path": None}


def test_written_options_start_the_same_run_again(tmp_path, monkeypatch):
    make_folders(tmp_path, photograph)
    monkeypatch.chdir(tmp_path)
    first = start(str(write_options(tmp_path, tiny_options())), is_train=True)
    remembered = option_files.plain_options(first)
    write_complete_options("complete.yml", remembered, comment="train -opt options.yml")
    assert load_yaml("complete.yml") == remembered
    assert option_files.plain_options(start("complete.yml", is_train=True)) == remembered


def test_changes_are_told_with_their_place_and_equal_options_have_none():
    before = {"train": {"optim_g": {"lr": 2e-4, "betas": [0.5, 0.9]}, "ema": 0}, "val": {"f": 1}, "scale": 1}
    now = {"train": {"optim_g": {"lr": 1e-4, "betas": [0.5, 0.9]}, "amp": "bf16"}, "scale": {"x": 1}, "path": {}}
    assert option_files.difference(before, now) == [
        "train.optim_g.lr: 0.0002 → 0.0001",
        "train.ema: removed, 0",
        "train.amp: added, 'bf16'",
        "val: removed",
        "scale: 1 → {'x': 1}",
        "path: added",
    ]
    assert option_files.difference(before, before) == []


def test_example_prints_what_it_says():
    assert doctest.testmod(option_files) == (0, 2)
