"""What a training has on disk: written whole, sealed by checksums, verified before it is used.

A checkpoint of iteration I, in BasicSR's layout and names:

    models/net_{label}_I.pth          networks; the newest and the best also as .safetensors
    models/best.json                  the best validation so far; its checkpoint is never pruned
    training_states/I.state           optimizers, random states and all else that a run needs to continue
    training_states/I.sha256          written last: their SHA-256, for `sha256sum -c I.sha256` in that folder
"""

from __future__ import annotations

import math
import os
import random
import re
import warnings
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from basicsr.utils import check_resume
from basicsr.utils.dist_util import master_only

from nlcl_plugin.data.files import json_text, remove_leftovers, sha256, sync_folder, write_whole
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.validation import PAIRED_METRICS
from nlcl_plugin.networks.about import as_metadata
from nlcl_plugin.networks.weights import BEST_FILE, best_iteration, load_plain, numbered, safetensors_bytes, weights_of
from nlcl_plugin.training.distributed import from_rank_zero, get_dist_info

_SUM = re.compile(r"(?P<sum>[0-9a-f]{64}) [ *](?P<name>[^\0]+)")


# sealing and copying; `basicsr_features.py` writes the networks and states -------------------------------------------
@master_only
def seal(opt: dict[str, Any], current_iter: int) -> None:
    """Write the checksums of a checkpoint whose networks and state are on disk; rank 0 only does it.

    `opt` has `path.models` and `path.training_states`.
    """
    folder = Path(opt["path"]["training_states"])
    files = [folder / f"{current_iter}.state", *_networks(opt, current_iter)]
    lines = [f"{sha256(path)}  {Path(os.path.relpath(path, folder)).as_posix()}\n" for path in files]
    write_whole(folder / f"{current_iter}.sha256", "".join(lines).encode())


@master_only
def save_as_safetensors(opt: dict[str, Any], current_iter: int | str) -> None:
    """Write the newest networks and the best as .safetensors too, and remove such copies of all others.

    They contain the weights to run a network with: the average where there is one. `current_iter` is the iteration of
    the newest, or `latest`. Rank 0 only does it.
    """
    wanted = [*_networks(opt, current_iter), *_networks(opt, best_iteration(opt["path"]["models"]))]
    for path in Path(opt["path"]["models"]).glob("net_*.pth"):
        copy = path.with_suffix(".safetensors")
        if path not in wanted:
            copy.unlink(missing_ok=True)
        elif path.stem.endswith(f"_{current_iter}") or not copy.exists():
            content = load_plain(path)
            notes = as_metadata(content["about"]) if "about" in content else {}
            notes = {"iter": path.stem.rpartition("_")[2], **notes}
            write_whole(copy, safetensors_bytes(weights_of(content, path), notes))


@master_only
def prune(opt: dict[str, Any], keep: int | None) -> None:
    """Delete the oldest sealed checkpoints; the best, unsealed and `latest` files stay. Rank 0 only does it.

    `keep` is how many whole ones to keep beside the best, at least 1; None keeps all.
    """
    if keep is None:
        return
    folder = Path(opt["path"]["training_states"])
    sealed = sorted(map(int, numbered(folder, ".sha256")))
    # A seal without its state is what a kill in the middle of this function leaves; the next call ends it.
    kept = [iteration for iteration in sealed if (folder / f"{iteration}.state").exists()][-keep:]
    best = best_iteration(opt["path"]["models"])
    for iteration in sealed:
        if not kept or iteration >= kept[0]:
            break
        if iteration == best:
            continue
        # First the state, without which nobody resumes from the rest; last the seal, which says that there is a rest.
        (folder / f"{iteration}.state").unlink(missing_ok=True)
        sync_folder(folder)
        for path in _networks(opt, iteration):
            path.unlink()
            path.with_suffix(".safetensors").unlink(missing_ok=True)
        sync_folder(opt["path"]["models"])
        (folder / f"{iteration}.sha256").unlink()


def _networks(opt: dict[str, Any], iteration: int | str | None) -> list[Path]:
    return sorted(Path(opt["path"]["models"]).glob(f"net_*_{iteration}.pth"))


# the best -------------------------------------------------------------------------------------------------------------
def choose_best(opt: dict[str, Any], validations: list[dict[str, Any]], current_iter: int) -> dict[str, Any] | None:
    """Choose the best validation by the first metric of the first validation dataset that has finite values of one.

    A restorer is compared with restorers only: in stage 2, validations of stage 1 do not count. Without `val.metrics`
    photographs without ground truth decide nothing, as NIQE calls some visibly cleaner photographs worse.

    Args:
        opt: Options with `datasets`, `val.metrics` and `path.models`.
        validations: Entries of `metrics.jsonl`, in their order. Those whose networks were deleted do not count.
        current_iter: The iteration whose networks need not be on disk yet.

    Returns:
        `metric`, `value`, `iter` and `better` (`higher` or `lower`), of equal values the earliest; None without any.
    """
    metrics = (opt.get("val") or {}).get("metrics") or PAIRED_METRICS
    stage_one = ((opt.get("train") or {}).get("restorer_opt") or {}).get("start_iter", 0)
    if current_iter > stage_one:
        validations = [entry for entry in validations if entry["iter"] > stage_one]
    datasets = [options["name"] for key, options in opt["datasets"].items() if key.split("_")[0] == "val"]
    for dataset, (metric, options) in product(datasets, metrics.items()):
        better = options.get("better", "lower" if options["type"] == "calculate_niqe" else "higher")
        found = [
            (entry["metrics"][metric], entry["iter"])
            for entry in validations
            if entry.get("dataset") == dataset
            and isinstance(figure := entry["metrics"].get(metric), int | float)
            and math.isfinite(figure)
            and (entry["iter"] == current_iter or _networks(opt, entry["iter"]))
        ]
        if found:
            value, iteration = (min if better == "lower" else max)(found, key=lambda pair: pair[0])
            return {"metric": metric, "value": value, "iter": iteration, "better": better}
    return None


@master_only
def write_best(opt: dict[str, Any], best: dict[str, Any] | None) -> None:
    """Write `models/best.json`, or remove it if there is no best; rank 0 only does it."""
    path = Path(opt["path"]["models"]) / BEST_FILE
    if best is None:
        path.unlink(missing_ok=True)
    else:
        write_whole(path, json_text(best).encode())


# resuming -------------------------------------------------------------------------------------------------------------
def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Load the training state to resume from, if there is one; all processes of a run must call this.

    With `auto_resume` it is that of the newest whole checkpoint; those that are not are warned about. Only rank 0
    verifies files, and all ranks take the checkpoint that it chose. The state is on the CPU; None is a fresh start. In
    `opt`, `path.resume_state` and the networks' `pretrain_network_*` are set. An InputError if there are checkpoints
    but none is whole, or the one that `path.resume_state` names is not.
    """
    path = from_rank_zero(lambda: _choose(opt))
    if path is None:
        return None
    opt["path"]["resume_state"] = path
    state = _load_state(Path(path))
    with redirect_stdout(None):  # it also prints files of networks that are not used, which do not exist
        check_resume(opt, state["iter"])
    return state


def _choose(opt: dict[str, Any]) -> str | None:
    if opt["auto_resume"]:
        folder = Path(opt["path"]["training_states"])
        for place in (folder, Path(opt["path"]["models"])):
            remove_leftovers(place)
        found = sorted({int(name) for suffix in (".state", ".sha256") for name in numbered(folder, suffix)})
        for iteration in reversed(found):
            path = folder / f"{iteration}.state"
            try:
                verify(path, opt)
            except InputError as error:
                warnings.warn(f"{error}; looking for the checkpoint before it", stacklevel=2)
                continue
            return str(path)
        if found:
            raise InputError(
                f"{folder}: each of its {len(found)} checkpoints is damaged; restore one, or start afresh without "
                "--auto_resume, which keeps this folder under another name"
            )
    given = opt["path"].get("resume_state")
    if given is not None:
        verify(Path(given), opt)
    return given


def verify(path: Path, opt: dict[str, Any]) -> None:
    """See that a checkpoint is whole and as it was written.

    `path` is its training state. Without checksums (BasicSR writes none, and a kill may have come before them) it must
    at least load. An InputError names the first file that is missing, damaged or changed.
    """
    sums = path.with_suffix(".sha256")
    sealed = sums.exists()
    for file, expected in _read_sums(sums).items() if sealed else ():
        try:
            found = sha256(file)
        except OSError as error:
            raise InputError(f"{file}: missing or unreadable ({error.strerror})") from error
        if found != expected:
            raise InputError(f"{file}: damaged or changed: its SHA-256 is not the one in {sums.name}")
    iteration = _load_state(path)["iter"]
    if not sealed:
        for file in _networks(opt, iteration) or [Path(opt["path"]["models"]) / f"net_g_{iteration}.pth"]:
            load_plain(file)
        warnings.warn(f"{path}: has no {sums.name}, so that it loads is all that could be verified", stacklevel=2)


def _read_sums(sums: Path) -> dict[Path, str]:
    lines = [_SUM.fullmatch(line) for line in sums.read_text(encoding="utf-8", errors="replace").splitlines()]
    if None in lines or f"{sums.stem}.state" not in {line["name"] for line in lines if line}:
        raise InputError(f"{sums}: damaged or changed: it is not the list of checksums of this checkpoint")
    # Earlier versions sealed the copies as .safetensors too, which nothing resumes from.
    named = {line["name"]: line["sum"] for line in lines if line and not line["name"].endswith(".safetensors")}
    return {sums.parent / name: expected for name, expected in named.items()}


def _load_state(path: Path) -> dict[str, Any]:
    state = load_plain(path, "training state")
    if not isinstance(state, dict) or not isinstance(state.get("iter"), int):
        raise InputError(f"{path}: not a training state (it contains no iteration)")
    return state


# random states: tensors, numbers, texts and lists, as `torch.load(..., weights_only=True)` takes nothing else ---------
def capture_random() -> dict[str, Any]:
    """State of every global random generator of this process: Python's, numpy's, torch's on the CPU and on each GPU."""
    version, numbers, gauss = random.getstate()
    # The legacy generator is the one that stock datasets draw from.
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [str(name), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def gather_random() -> list[dict[str, Any]] | None:
    """Random states of all processes, by rank, on rank 0, and None on the others; all must call this."""
    rank, world_size = get_dist_info()
    if world_size == 1:
        return [capture_random()]
    states: list[Any] | None = [None] * world_size if rank == 0 else None
    dist.gather_object(capture_random(), states, dst=0)
    return states


def restore_random(states: list[dict[str, Any]] | None) -> bool:
    """Set every global random generator of this process to what it was in the process of the same rank.

    GPUs that the states or this machine lack are left out. Returns whether it was done: not without states (None), and
    not if there were more processes or fewer, as theirs were other draws.
    """
    rank, world_size = get_dist_info()
    if states is None or len(states) != world_size:
        return False
    state = states[rank]
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    for device in range(min(len(state["cuda"]), torch.cuda.device_count())):
        torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)
    return True
