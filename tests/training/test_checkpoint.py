"""Checkpoints on a real disk: sealed, pruned, damaged in every way, and resumed from; the best is kept."""

import copy
import json
import os
import random
import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import torchrun

from nlcl_plugin.errors import InputError
from nlcl_plugin.training import checkpoint


@pytest.fixture
def opt(tmp_path):
    paths = {name: str(tmp_path / name) for name in ("models", "training_states")}
    for path in paths.values():
        os.mkdir(path)
    return {"auto_resume": True, "path": paths, "network_g": {}, "network_d": {}, "network_s": {}}


def save(opt, iteration, sealed=True):
    for label in ("g", "d"):
        torch.save({"params": {"weight": torch.randn(50, 50)}}, network_path(opt, label, iteration))
    state = {"epoch": 0, "iter": iteration, "optimizers": [torch.randn(50, 50)], "schedulers": []}
    torch.save(state, state_path(opt, iteration))
    if sealed:
        checkpoint.seal(opt, iteration)


def state_path(opt, iteration, suffix=".state"):
    return os.path.join(opt["path"]["training_states"], f"{iteration}{suffix}")


def network_path(opt, label, iteration, suffix=".pth"):
    return os.path.join(opt["path"]["models"], f"net_{label}_{iteration}{suffix}")


def files(opt):
    return sorted(os.listdir(opt["path"]["models"]) + os.listdir(opt["path"]["training_states"]))


def resume(opt):
    """The iteration resumed from, the options after it, and the warnings."""
    opt = copy.deepcopy(opt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = checkpoint.load_resume_state(opt)
    return state and state["iter"], opt, [str(warning.message) for warning in caught]


def cut(path):
    os.truncate(path, os.path.getsize(path) // 2)


def flip_a_bit(path):
    # In the middle are the numbers, which torch loads as they come.
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


# sealing --------------------------------------------------------------------------------------------------------------
def test_seal_is_what_sha256sum_checks(opt):
    save(opt, 1000)
    save(opt, 11000, sealed=False)
    command = ["sha256sum", "--strict", "-c", "1000.sha256"]
    done = subprocess.run(command, cwd=opt["path"]["training_states"], capture_output=True, text=True, check=True)
    names = ("1000.state", "../models/net_d_1000.pth", "../models/net_g_1000.pth")
    assert done.stdout.splitlines() == [f"{name}: OK" for name in names]


# resuming -------------------------------------------------------------------------------------------------------------
def test_newest_by_number_is_resumed_and_its_networks_are_set(opt):
    assert resume(opt)[0] is None  # a fresh start
    for iteration in (2000, 900, 10000):
        save(opt, iteration)
    opt["path"].update(param_key_g="params_ema", ignore_resume_networks=["network_s"])
    iteration, after, warned = resume(opt)
    assert iteration == 10000
    assert warned == []
    assert after["path"]["resume_state"] == state_path(opt, 10000)
    assert after["path"]["pretrain_network_g"] == network_path(opt, "g", 10000)
    assert after["path"]["param_key_g"] == "params"
    assert "pretrain_network_s" not in after["path"]


DAMAGES = {
    "state cut": (lambda state, network, seal: cut(state), r"/3\.state: damaged"),
    "state gone": (lambda state, network, seal: os.remove(state), r"/3\.state: missing"),
    "state flipped": (lambda state, network, seal: flip_a_bit(state), r"/3\.state: damaged or changed"),
    "network cut": (lambda state, network, seal: cut(network), r"/net_d_3\.pth: damaged"),
    "network gone": (lambda state, network, seal: os.remove(network), r"/net_d_3\.pth: missing"),
    "network flipped": (lambda state, network, seal: flip_a_bit(network), r"/net_d_3\.pth: damaged or changed"),
    "seal cut": (lambda state, network, seal: os.truncate(seal, 70), r"/3\.sha256: damaged or changed"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(opt, kind):
    for iteration in (2, 3):
        save(opt, iteration)
    damage, expected = DAMAGES[kind]
    damage(state_path(opt, 3), network_path(opt, "d", 3), state_path(opt, 3, ".sha256"))
    iteration, after, warned = resume(opt)
    assert iteration == 2
    assert re.search(expected, warned[0])
    assert warned[0].endswith("; looking for the checkpoint before it")
    assert "\n" not in warned[0]
    assert after["path"]["pretrain_network_g"] == network_path(opt, "g", 2)
    # A state that was asked for by name is an error.
    opt["auto_resume"] = False
    opt["path"]["resume_state"] = state_path(opt, 3)
    with pytest.raises(InputError, match=expected) as raised:
        resume(opt)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [None, "state cut", "network cut"])
def test_a_stock_checkpoint_without_checksums_must_load(opt, kind):
    for iteration in (2, 3):
        save(opt, iteration, sealed=False)
    damage, expected = DAMAGES.get(kind, (lambda *_: None, "3.state: has no 3.sha256"))
    damage(state_path(opt, 3), network_path(opt, "d", 3), None)
    iteration, _, warned = resume(opt)
    assert iteration == (3 if kind is None else 2)
    assert re.search(expected, warned[0])


def test_no_whole_checkpoint_is_an_error_and_never_a_fresh_start(opt):
    for iteration in (1, 2):
        save(opt, iteration)
        cut(network_path(opt, "g", iteration))
    opt["path"]["resume_state"] = state_path(opt, 1)
    with pytest.raises(InputError, match=r"each of its 2 checkpoints is damaged; .* without --auto_resume") as raised:
        resume(opt)
    assert "\n" not in str(raised.value)


def test_resuming_removes_what_a_kill_left_and_nothing_else(opt):
    save(opt, 1)
    before = files(opt)
    for folder in opt["path"].values():
        open(os.path.join(folder, "2.state.4711.tmp"), "w").close()
    open(os.path.join(opt["path"]["models"], "notes.txt"), "w").close()
    resume(opt)
    assert files(opt) == sorted([*before, "notes.txt"])


def test_named_state_is_taken_though_there_is_a_newer_one(opt):
    for iteration in (1, 2):
        save(opt, iteration)
    opt["auto_resume"] = False
    opt["path"]["resume_state"] = state_path(opt, 1)
    iteration, after, _ = resume(opt)
    assert iteration == 1
    assert after["path"]["pretrain_network_d"] == network_path(opt, "d", 1)
    opt["path"]["resume_state"] = network_path(opt, "g", 1)
    with pytest.raises(InputError, match=r"net_g_1.pth: not a training state"):
        resume(opt)


TWO_PROCESSES = """
import os, random, warnings
import torch.distributed as dist
import nlcl_plugin
from nlcl_plugin.errors import InputError
from nlcl_plugin.training import checkpoint
from nlcl_plugin.training.distributed import leave_process_group
dist.init_process_group("gloo")
rank = dist.get_rank()
if rank:  # which must not decide anything
    checkpoint.verify = lambda *_: os._exit(1)
paths = {name: name for name in ("models", "training_states")}
for attempt in range(2):
    try:
        state = checkpoint.load_resume_state({"auto_resume": True, "path": paths, "network_g": {}})
        print(f"rank {rank} resumes {state and state['iter']}\\n", end="")
    except InputError as error:
        print(f"rank {rank} refuses: {error}\\n", end="")
    dist.barrier()
    if rank == 0:
        os.truncate("training_states/1.state", 100)
    dist.barrier()
random.seed(rank)
states = checkpoint.gather_random()
assert (states is None) == bool(rank)
everyones = [states]
dist.broadcast_object_list(everyones)
own = random.random()
assert checkpoint.restore_random(everyones[0])
assert own == random.random() == random.Random(rank).random()
leave_process_group(0)
"""


@pytest.mark.slow
def test_all_processes_take_what_the_first_one_found_whole_and_their_own_random_states(opt, tmp_path):
    save(opt, 1)
    save(opt, 2)
    cut(network_path(opt, "g", 2))
    done = torchrun(tmp_path, TWO_PROCESSES)
    assert done.returncode == 0, done.stderr
    refused = "refuses: training_states: each of its 2 checkpoints is damaged"
    lines = sorted(line.partition(";")[0] for line in done.stdout.splitlines() if "rank" in line)
    assert lines == [f"rank {rank} {what}" for rank in (0, 1) for what in (refused, "resumes 1")]
    assert done.stderr.count("1.state: damaged") == 1


# pruning --------------------------------------------------------------------------------------------------------------
def test_pruning_keeps_the_newest_the_best_and_whatever_is_not_sealed(opt):
    for iteration in (2, 10, 9, 100):
        save(opt, iteration)
    save(opt, 1, sealed=False)
    torch.save({}, network_path(opt, "g", "latest"))
    torch.save({}, network_path(opt, "g", "12"))  # no state and no seal: somebody else's
    checkpoint.prune(opt, None)
    assert "9.state" in files(opt)
    checkpoint.write_best(opt, {"metric": "psnr", "value": 30.0, "iter": 2, "better": "higher"})
    checkpoint.prune(opt, 2)
    assert [name for name in files(opt) if name.endswith((".state", ".sha256"))] == [
        "1.state", "10.sha256", "10.state", "100.sha256", "100.state", "2.sha256", "2.state"
    ]  # fmt: skip
    left = [f"net_g_{which}.pth" for which in ("1", "10", "100", "12", "2", "latest")]
    assert [name for name in files(opt) if name.startswith("net_g")] == left
    checkpoint.verify(checkpoint.Path(state_path(opt, 2)), opt)
    assert resume(opt)[0] == 100


def test_a_kill_at_any_moment_of_pruning_spares_the_kept_ones_and_the_next_call_ends_it(opt, monkeypatch):
    unlink = checkpoint.Path.unlink
    for moment in range(1, 8):
        for iteration in (1, 2, 3):
            save(opt, iteration)
        left = moment

        def killed(path, *args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            unlink(path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint.Path, "unlink", killed)
            with pytest.raises(KeyboardInterrupt):
                checkpoint.prune(opt, 1)
        assert resume(opt)[::2] == (3, [])
        # What is half gone is never taken for whole, also when the newer one is lost.
        for n in (1, 2):
            if os.path.exists(state_path(opt, n)):
                checkpoint.verify(checkpoint.Path(state_path(opt, n)), opt)
        checkpoint.prune(opt, 1)
        assert files(opt) == ["3.sha256", "3.state", "net_d_3.pth", "net_g_3.pth"]


# the best -------------------------------------------------------------------------------------------------------------
def validations(*values, metric="psnr", dataset="pairs"):
    """Entries of `metrics.jsonl` at iterations 10, 20 and so on."""
    return [{"iter": 10 * i, "dataset": dataset, "metrics": {metric: value}} for i, value in enumerate(values, 1)]


METRICS = {
    "niqe": {"type": "calculate_niqe"},
    "mine": {"type": "mine", "better": "lower"},
    "psnr": {"type": "calculate_psnr"},
}


@pytest.mark.parametrize(
    ("metrics", "entries", "expected"),
    [
        (None, validations(20.0, 22.5, 21.0), ("psnr", 22.5, 20, "higher")),
        (None, validations(22.5, 22.5, 0.0), ("psnr", 22.5, 10, "higher")),  # the earlier of equal ones
        (None, validations(float("nan"), 20.0, None, float("inf")), ("psnr", 20.0, 20, "higher")),
        ({"niqe": METRICS["niqe"]}, validations(6.0, 5.0, metric="niqe"), ("niqe", 5.0, 20, "lower")),
        (METRICS, validations(6.0, 5.0, metric="mine") + validations(1.0), ("mine", 5.0, 20, "lower")),
        (None, validations(1.0) + validations(30.0, dataset="other"), ("psnr", 1.0, 10, "higher")),
        (None, validations(1.0, 2.0, 3.0, 99.0), ("psnr", 3.0, 30, "higher")),  # the networks of 40 are gone
        (None, validations(6.0, metric="niqe"), None),  # decides only where it is named
    ],
)
def test_the_best_is_that_of_the_first_metric_of_the_first_dataset_that_has_one(opt, metrics, entries, expected):
    opt["datasets"] = {"train": {"name": "train"}, "val": {"name": "pairs"}, "val_2": {"name": "other"}}
    opt["val"] = {"metrics": metrics}
    for iteration in (10, 20):
        save(opt, iteration)
    best = checkpoint.choose_best(opt, entries, 30)
    assert best == (expected and dict(zip(("metric", "value", "iter", "better"), expected, strict=True)))
    checkpoint.write_best(opt, best)
    path = checkpoint.Path(opt["path"]["models"]) / "best.json"
    assert best is None or json.loads(path.read_text()) == best
    checkpoint.write_best(opt, None)
    assert not path.exists()


def test_a_restorer_is_compared_with_restorers(opt):
    opt["datasets"] = {"val": {"name": "pairs"}}
    opt["train"] = {"restorer_opt": {"start_iter": 10}}
    for iteration in (10, 20):
        save(opt, iteration)
    entries = [{"dataset": "pairs", "iter": i, "metrics": {"psnr": p}} for i, p in ((10, 9.0), (20, 5.0), (30, 4.0))]
    assert checkpoint.choose_best(opt, entries[:1], 10)["iter"] == 10
    assert checkpoint.choose_best(opt, entries, 30)["iter"] == 20


def test_only_the_newest_and_the_best_are_copied_as_safetensors(opt):
    copies = {}
    for iteration, best in ((1, 1), (2, 1), (3, 1), (4, 4), ("latest", 4)):
        save(opt, iteration)
        checkpoint.write_best(opt, {"metric": "psnr", "value": 1.0, "iter": best, "better": "higher"})
        Path(opt["path"]["models"], "mine.safetensors").write_bytes(b"")
        checkpoint.save_as_safetensors(opt, iteration)
        copies[iteration] = [name[6:-12] for name in files(opt) if name.startswith("net_g") and "safet" in name]
    assert copies == {1: ["1"], 2: ["1", "2"], 3: ["1", "3"], 4: ["4"], "latest": ["4", "latest"]}
    assert "mine.safetensors" in files(opt)


# random states --------------------------------------------------------------------------------------------------------
def draws():
    """Of every generator, in an odd number, as normal draws come in pairs."""
    normal = [random.gauss(0, 1), float(np.random.standard_normal()), torch.randn(3).tolist()]  # noqa: NPY002
    return [*normal, random.random(), float(np.random.random()), torch.rand(3).tolist()]  # noqa: NPY002


def test_every_generator_continues_where_it_was(tmp_path):
    draws()
    torch.save(checkpoint.gather_random(), tmp_path / "file")
    expected = [draws(), draws()]
    states = torch.load(tmp_path / "file", map_location="cpu", weights_only=True)
    states[0]["cuda"] += [torch.zeros(16, dtype=torch.uint8)]  # of a machine with one more GPU
    assert checkpoint.restore_random(states) or torch.cuda.is_available()
    assert [draws(), draws()] == expected
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    assert not checkpoint.restore_random(None)
    assert not checkpoint.restore_random(checkpoint.gather_random() * 2)  # of another number of processes
    assert torch.equal(torch.rand(3), expected)
