"""Checkpoints on a real disk: sealed, pruned, damaged in every way, and resumed from."""

import copy
import os
import pickle
import re
import subprocess
import sys
import warnings

import pytest
import torch
from malicious import write_malicious

from nlcl_plugin.errors import InputError
from nlcl_plugin.networks import weights
from nlcl_plugin.training import checkpoint


@pytest.fixture
def opt(tmp_path):
    paths = {name: str(tmp_path / name) for name in ("models", "training_states")}
    for path in paths.values():
        os.mkdir(path)
    return {"auto_resume": True, "path": paths, "network_g": {}, "network_d": {}, "network_s": {}}


def save(opt, iteration, sealed=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for label in ("g", "d"):
        weights = {"params": {"weight": torch.randn(50, 50, generator=generator)}}
        torch.save(weights, os.path.join(opt["path"]["models"], f"net_{label}_{iteration}.pth"))
    state = {"epoch": 0, "iter": iteration, "optimizers": [torch.randn(50, 50)], "schedulers": []}
    torch.save(state, state_path(opt, iteration))
    if sealed:
        checkpoint.seal(opt, iteration)


def state_path(opt, iteration, suffix=".state"):
    return os.path.join(opt["path"]["training_states"], f"{iteration}{suffix}")


def network_path(opt, label, iteration):
    return os.path.join(opt["path"]["models"], f"net_{label}_{iteration}.pth")


def resume(opt):
    """The iteration resumed from, the options after it, and the warnings."""
    opt = copy.deepcopy(opt)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state = checkpoint.load_resume_state(opt)
    return state and state["iter"], opt, [str(warning.message) for warning in caught]


def cut(path):
    with open(path, "r+b") as file:
        file.truncate(os.path.getsize(path) // 2)


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
    weights.save_safetensors(os.path.join(opt["path"]["models"], "net_g_1000.safetensors"), {"a": torch.ones(1)})
    save(opt, 11000, sealed=False)
    checkpoint.seal(opt, 1000)
    command = ["sha256sum", "--strict", "-c", "1000.sha256"]
    done = subprocess.run(command, cwd=opt["path"]["training_states"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "1000.state: OK",
        "../models/net_d_1000.pth: OK",
        "../models/net_g_1000.pth: OK",
        "../models/net_g_1000.safetensors: OK",
    ]


# resuming -------------------------------------------------------------------------------------------------------------
def test_newest_by_number_is_resumed_and_its_networks_are_set(opt):
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


def test_nothing_to_resume_from_is_a_fresh_start(opt, tmp_path):
    assert resume(opt)[0] is None
    opt["path"]["training_states"] = str(tmp_path / "none")
    assert resume(opt)[0] is None


def damages():
    def states(opt):
        return state_path(opt, 3)

    def networks(opt):
        return network_path(opt, "d", 3)

    def seals(opt):
        return state_path(opt, 3, ".sha256")

    def rename_state(opt):
        os.replace(state_path(opt, 2), state_path(opt, 3))
        os.remove(seals(opt))

    def swap_networks(opt):
        os.replace(network_path(opt, "g", 3), network_path(opt, "d", 3))
        torch.save({"params": {}}, network_path(opt, "g", 3))

    def drop_line(opt):
        with open(seals(opt), "r+", encoding="utf-8") as file:
            lines = file.readlines()
            file.seek(0)
            file.truncate()
            file.writelines(lines[1:])

    return {
        "state cut": (lambda opt: cut(states(opt)), r"/3\.state: torn"),
        "state empty": (lambda opt: os.truncate(states(opt), 0), r"/3\.state: torn"),
        "state gone": (lambda opt: os.remove(states(opt)), r"/3\.state: missing"),
        "state flipped": (lambda opt: flip_a_bit(states(opt)), r"/3\.state: (changed: its SHA-256|torn)"),
        "state of another": (lambda opt: rename_state(opt), r"/3\.state: changed: it holds iteration 2"),
        "network cut": (lambda opt: cut(networks(opt)), r"/net_d_3\.pth: torn"),
        "network gone": (lambda opt: os.remove(networks(opt)), r"/net_d_3\.pth: missing"),
        "network flipped": (lambda opt: flip_a_bit(networks(opt)), r"/net_d_3\.pth: (changed: its SHA-256|torn)"),
        "network replaced": (lambda opt: swap_networks(opt), r"/net_[dg]_3\.pth: changed: its SHA-256"),
        "seal cut": (lambda opt: cut(seals(opt)), r"/3\.sha256: torn or changed"),
        "seal empty": (lambda opt: os.truncate(seals(opt), 0), r"/3\.sha256: torn or changed"),
        "seal without the state": (drop_line, r"/3\.sha256: torn or changed"),
        "seal of other files": (
            lambda opt: open(seals(opt), "a").write(f"{'0' * 64}  ../../../etc/passwd\n"),
            r"/3\.sha256: torn or changed",
        ),
    }


DAMAGES = damages()


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(opt, kind):
    for iteration in (1, 2, 3):
        save(opt, iteration, seed=iteration)
    damage, expected = DAMAGES[kind]
    damage(opt)
    iteration, after, warned = resume(opt)
    assert iteration == (1 if kind == "state of another" else 2)
    assert re.search(expected, warned[0])
    assert warned[0].endswith("; looking for the checkpoint before it")
    assert "\n" not in warned[0]
    assert after["path"]["pretrain_network_g"] == network_path(opt, "g", iteration)


@pytest.mark.parametrize("kind", ["state cut", "network cut", "network gone"])
def test_damage_shows_without_checksums_too(opt, kind):
    for iteration in (2, 3):
        save(opt, iteration, sealed=False)
    damage, expected = DAMAGES[kind]
    damage(opt)
    iteration, _, warned = resume(opt)
    assert iteration == 2
    assert re.search(expected, warned[0])
    assert "2.state: has no 2.sha256" in warned[1]


def test_stock_checkpoint_without_checksums_is_taken_with_a_warning(opt):
    save(opt, 5, sealed=False)
    iteration, _, warned = resume(opt)
    assert iteration == 5
    assert len(warned) == 1
    assert "5.state: has no 5.sha256" in warned[0]


def test_state_without_any_network_is_damaged(opt):
    save(opt, 5, sealed=False)
    for label in ("g", "d"):
        os.remove(network_path(opt, label, 5))
    with pytest.raises(InputError, match="none of its 1 checkpoints is whole"), pytest.warns(match="are missing"):
        checkpoint.load_resume_state(opt)


def test_a_network_that_is_not_asked_for_may_be_missing_without_checksums(opt):
    save(opt, 4, sealed=False)
    torch.save({"params": {}}, network_path(opt, "s", 2))  # of a run that had one more network
    assert re.search("net_s_4.pth: missing", str(fault(opt, 4)))
    opt["path"]["ignore_resume_networks"] = ["network_s"]
    assert resume(opt)[0] == 4
    del opt["path"]["ignore_resume_networks"], opt["network_s"]
    assert resume(opt)[0] == 4


def fault(opt, iteration):
    try:
        checkpoint.verify(checkpoint.Path(state_path(opt, iteration)), opt)
    except InputError as error:
        return error


def test_no_whole_checkpoint_is_an_error_and_never_a_fresh_start(opt):
    for iteration in (1, 2):
        save(opt, iteration)
        cut(network_path(opt, "g", iteration))
    opt["path"]["resume_state"] = state_path(opt, 1)
    with pytest.raises(InputError, match=r"none of its 2 checkpoints is whole; .* without --auto_resume") as raised:
        resume(opt)
    assert "\n" not in str(raised.value)


def test_resuming_removes_what_a_kill_left_and_nothing_else(opt):
    save(opt, 1)
    for folder in opt["path"].values():
        open(os.path.join(folder, "2.state.4711.tmp"), "w").close()
    open(os.path.join(opt["path"]["models"], "notes.txt"), "w").close()
    resume(opt)
    assert sorted(os.listdir(opt["path"]["training_states"])) == ["1.sha256", "1.state"]
    assert "notes.txt" in os.listdir(opt["path"]["models"])
    assert len(os.listdir(opt["path"]["models"])) == 3


def test_named_state_is_taken_though_there_is_a_newer_one(opt):
    for iteration in (1, 2):
        save(opt, iteration)
    opt["auto_resume"] = False
    opt["path"]["resume_state"] = state_path(opt, 1)
    iteration, after, _ = resume(opt)
    assert iteration == 1
    assert after["path"]["pretrain_network_d"] == network_path(opt, "d", 1)


@pytest.mark.parametrize("kind", DAMAGES)
def test_named_state_that_is_damaged_is_an_error_in_one_line(opt, kind):
    for iteration in (2, 3):
        save(opt, iteration, seed=iteration)
    damage, expected = DAMAGES[kind]
    damage(opt)
    opt["auto_resume"] = False
    opt["path"]["resume_state"] = state_path(opt, 3)
    with pytest.raises(InputError, match=expected) as raised:
        resume(opt)
    assert "\n" not in str(raised.value)


def test_network_passed_off_as_a_state_is_refused(opt):
    save(opt, 1)
    opt["auto_resume"] = False
    opt["path"]["resume_state"] = network_path(opt, "g", 1)
    with pytest.raises(InputError, match=r"net_g_1.pth: not a training state \(it holds no iteration\)"):
        resume(opt)


AGREE = """
import os, sys, warnings
import torch.distributed as dist
import nlcl_plugin
from nlcl_plugin.training import checkpoint
from nlcl_plugin.training import distributed as process_group
from nlcl_plugin.errors import InputError
dist.init_process_group("gloo")
rank = dist.get_rank()
if rank:  # which must not decide anything
    checkpoint.verify = lambda *_: sys.exit("rank 1 verified")
root = sys.argv[1]
paths = {name: os.path.join(root, name) for name in ("models", "training_states")}
try:
    state = checkpoint.load_resume_state({"auto_resume": True, "path": paths, "network_g": {}})
    print(f"rank {rank} resumes {state and state['iter']}\\n", end="")
except InputError as error:
    print(f"rank {rank} refuses: {error}\\n", end="")
process_group.leave_process_group(0)
"""


def agree(tmp_path):
    (tmp_path / "agree.py").write_text(AGREE)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "agree.py", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return sorted(done.stdout.splitlines()), done.stderr


def test_all_processes_take_what_the_first_one_found_whole(opt, tmp_path):
    save(opt, 1)
    save(opt, 2)
    cut(network_path(opt, "g", 2))
    said, warned = agree(tmp_path)
    assert [line for line in said if "rank" in line] == ["rank 0 resumes 1", "rank 1 resumes 1"]
    assert warned.count("net_g_2.pth: torn") == 1
    cut(state_path(opt, 1))
    said, _ = agree(tmp_path)
    refused = "refuses: training_states: none of its 2 checkpoints is whole"
    assert [line.partition(";")[0] for line in said] == [f"rank {rank} {refused}" for rank in (0, 1)]


# pruning --------------------------------------------------------------------------------------------------------------
def files(opt):
    return sorted(os.listdir(opt["path"]["models"]) + os.listdir(opt["path"]["training_states"]))


def test_pruning_keeps_the_newest_and_whatever_is_not_sealed(opt):
    for iteration in (2, 10, 9, 100):
        save(opt, iteration)
    save(opt, 1, sealed=False)
    weights.save_safetensors(os.path.join(opt["path"]["models"], "net_g_2.safetensors"), {"a": torch.ones(1)})
    torch.save({}, network_path(opt, "g", "latest"))
    torch.save({}, network_path(opt, "g", "12"))  # no state and no seal: somebody else's
    checkpoint.prune(opt, None)
    assert "2.state" in files(opt)
    checkpoint.prune(opt, 2)
    assert [name for name in files(opt) if name.endswith((".state", ".sha256"))] == [
        "1.state", "10.sha256", "10.state", "100.sha256", "100.state"
    ]  # fmt: skip
    assert [name for name in files(opt) if name.startswith("net_g")] == [
        "net_g_1.pth", "net_g_10.pth", "net_g_100.pth", "net_g_12.pth", "net_g_latest.pth"
    ]  # fmt: skip
    assert resume(opt)[0] == 100
    checkpoint.prune(opt, 5)
    assert resume(opt)[0] == 100


def test_a_kill_at_any_moment_of_pruning_spares_the_kept_ones_and_the_next_call_ends_it(opt, monkeypatch):
    unlink = checkpoint.Path.unlink
    for moment in range(1, 8):
        for iteration in (1, 2, 3):
            save(opt, iteration, seed=iteration)
        left = moment

        def killed(path, *args, **kwargs):
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            unlink(path, *args, **kwargs)

        monkeypatch.setattr(checkpoint.Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.prune(opt, 1)
        monkeypatch.setattr(checkpoint.Path, "unlink", unlink)
        assert resume(opt)[::2] == (3, [])
        # What is half gone is never taken for whole, also when the newer one is lost.
        os.rename(state_path(opt, 3), state_path(opt, 3) + ".lost")
        whole = {n for n in (1, 2) if os.path.exists(state_path(opt, n))}
        assert all(fault(opt, n) is None for n in whole)
        os.rename(state_path(opt, 3) + ".lost", state_path(opt, 3))
        checkpoint.prune(opt, 1)
        assert files(opt) == ["3.sha256", "3.state", "net_d_3.pth", "net_g_3.pth"]


# safe loading ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("sealed", [True, False])
def test_a_state_cannot_run_code(opt, tmp_path, how, sealed):
    save(opt, 8)
    save(opt, 9, sealed=False)
    write_malicious(state_path(opt, 9), tmp_path / "victim", how)
    if sealed:
        checkpoint.seal(opt, 9)
    iteration, _, warned = resume(opt)
    assert iteration == 8
    assert re.search(r"9\.state: torn, or not a training state", warned[0])
    if how == "torch":
        assert "it holds posix.mkdir, where only tensors and plain values are loaded" in warned[0]
    assert not (tmp_path / "victim").exists()
    with open(state_path(opt, 9), "rb") as file:
        _ = pickle.load(file) if how == "pickle" else torch.load(file, weights_only=False)  # noqa: S301
    assert (tmp_path / "victim").exists()  # it does run where it is let
