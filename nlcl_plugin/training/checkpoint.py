"""What a training has on disk: written whole, sealed by checksums, verified before it is used.

A checkpoint of iteration I, in BasicSR's layout and names:

    models/net_{label}_I.pth          networks; also .safetensors
    training_states/I.state           optimizers and all else a run needs to go on
    training_states/I.sha256          written last: their SHA-256, for `sha256sum -c I.sha256` in that folder
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from basicsr.utils import check_resume
from basicsr.utils.dist_util import master_only

from nlcl_plugin.data.files import remove_leftovers, sha256, sync_folder, written_whole
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.about import as_metadata
from nlcl_plugin.networks.weights import load_plain, missing, numbered, save_safetensors, weights_of
from nlcl_plugin.training.distributed import from_rank_zero

_NETWORK = re.compile(r"net_(?P<label>.+)_(?P<iteration>\d+)\.(?:pth|safetensors)")
_SUM = re.compile(r"(?P<sum>[0-9a-f]{64}) [ *](?P<name>[^\0]+)")


# writing --------------------------------------------------------------------------------------------------------------
@master_only
def seal(opt: dict[str, Any], current_iter: int) -> None:
    """Write the checksums of a checkpoint whose networks and state are on disk; rank 0 only does it.

    Args:
        opt: Options with `path.models` and `path.training_states`.
        current_iter: Its iteration.
    """
    folder = Path(opt["path"]["training_states"])
    state = folder / f"{current_iter}.state"
    networks = sorted(path for path, _ in _networks(opt["path"]["models"], current_iter))
    lines = [f"{sha256(path)}  {Path(os.path.relpath(path, folder)).as_posix()}\n" for path in (state, *networks)]
    with written_whole(folder / f"{current_iter}.sha256") as file:
        file.write("".join(lines).encode())


@master_only
def save_as_safetensors(opt: dict[str, Any], current_iter: int | str) -> None:
    """Write saved networks as .safetensors too: the weights to run them with, that is the average where there is one.

    Args:
        opt: Options with `path.models`.
        current_iter: Their iteration, or `latest`; rank 0 only does it.
    """
    for path in sorted(Path(opt["path"]["models"]).glob(f"net_*_{current_iter}.pth")):
        content = load_plain(path)
        notes = {"iter": current_iter, **(as_metadata(content["about"]) if "about" in content else {})}
        save_safetensors(path.with_suffix(".safetensors"), weights_of(content, path), notes)


@master_only
def prune(opt: dict[str, Any], keep: int | None) -> None:
    """Delete the oldest sealed checkpoints; unsealed and `latest` files stay. Rank 0 only does it.

    Args:
        opt: Options with `path.models` and `path.training_states`.
        keep: How many whole ones to keep, at least 1; None keeps all.
    """
    if keep is None:
        return
    folder = Path(opt["path"]["training_states"])
    sealed = sorted(_iterations(folder, ".sha256"))
    # A seal without its state is what a kill in the middle of this function leaves; the next call ends it.
    kept = [iteration for iteration in sealed if (folder / f"{iteration}.state").exists()][-keep:]
    for iteration in sealed:
        if not kept or iteration >= kept[0]:
            break
        # First the state, without which nobody resumes from the rest; last the seal, which says that there is a rest.
        (folder / f"{iteration}.state").unlink(missing_ok=True)
        sync_folder(folder)
        for path, _ in _networks(opt["path"]["models"], iteration):
            path.unlink()
        sync_folder(opt["path"]["models"])
        (folder / f"{iteration}.sha256").unlink()


def _iterations(folder: Path, suffix: str) -> set[int]:
    return {int(which) for which in numbered(folder, suffix)}


def _networks(folder: str, iteration: int | None = None) -> Iterator[tuple[Path, str]]:
    """Numbered networks of a folder with their labels, of one iteration or of all."""
    for path in Path(folder).iterdir() if os.path.isdir(folder) else ():
        found = _NETWORK.fullmatch(path.name)
        if found and iteration in (None, int(found["iteration"])):
            yield path, found["label"]


# resuming -------------------------------------------------------------------------------------------------------------
def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Load the training state to resume from, if there is one; all processes of a run must call this.

    With `auto_resume` it is that of the newest whole checkpoint; those that are not are warned about. Only rank 0
    verifies files, and all ranks take the checkpoint that it chose.

    Args:
        opt: Options with `auto_resume` and `path`; `path.resume_state` and the networks' `pretrain_network_*` are set.

    Returns:
        The state, on the CPU, or None for a fresh start.

    Raises:
        InputError: If there are checkpoints but none is whole, or the one that `path.resume_state` names is not.
    """
    path = from_rank_zero(lambda: _choose(opt))
    if path is None:
        return None
    opt["path"]["resume_state"] = path
    state = _load_state(Path(path))
    check_resume(opt, state["iter"])
    return state


def _choose(opt: dict[str, Any]) -> str | None:
    if opt["auto_resume"]:
        folder = Path(opt["path"]["training_states"])
        for place in (folder, Path(opt["path"]["models"])):
            remove_leftovers(place)
        found = sorted(_iterations(folder, ".state") | _iterations(folder, ".sha256"), reverse=True)
        for iteration in found:
            path = folder / f"{iteration}.state"
            try:
                verify(path, opt)
            except InputError as error:
                warnings.warn(f"{error}; looking for the checkpoint before it", stacklevel=2)
                continue
            return str(path)
        if found:
            raise InputError(
                f"{folder}: none of its {len(found)} checkpoints is whole; restore one, or start afresh without "
                "--auto_resume, which keeps this folder under another name"
            )
    given = opt["path"].get("resume_state")
    if given is not None:
        verify(Path(given), opt)
    return given


def verify(path: Path, opt: dict[str, Any]) -> None:
    """See that a checkpoint is whole and as it was written.

    Without checksums (BasicSR writes none, and a kill may have come before them) it must at least load.

    Args:
        path: Its training state.
        opt: Options with the networks and `path.models`.

    Raises:
        InputError: Naming the first file that is missing, torn or changed.
    """
    sums = path.with_suffix(".sha256")
    sealed = sums.exists()
    if sealed:
        for file, expected in _read_sums(sums).items():
            _verify_sum(file, expected, sums)
    state = _load_state(path)
    if path.stem.isdigit() and int(path.stem) != state["iter"]:
        raise InputError(f"{path}: changed: it holds iteration {state['iter']}; give it its own name again")
    if not sealed:
        for file in _expected_networks(opt, state["iter"]):
            load_plain(file)
        warnings.warn(f"{path}: has no {sums.name}, so that it loads is all that could be verified", stacklevel=2)


def _read_sums(sums: Path) -> dict[Path, str]:
    names = re.compile(rf"{sums.stem}\.state|(?:.*/)?net_.+_{sums.stem}\.(?:pth|safetensors)")
    try:
        lines = [_SUM.fullmatch(line) for line in sums.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError):
        lines = []
    listed = {line["name"]: line["sum"] for line in lines if line and names.fullmatch(line["name"])}
    if f"{sums.stem}.state" not in listed or len(listed) != len(lines):
        raise InputError(f"{sums}: torn or changed: it is no list of checksums of this checkpoint")
    return {sums.parent / name: expected for name, expected in listed.items()}


def _verify_sum(file: Path, expected: str, sums: Path) -> None:
    try:
        found = sha256(file)
    except OSError as error:
        raise missing(file, error) from error
    if found != expected:
        load_plain(file)  # tells what is torn
        raise InputError(f"{file}: changed: its SHA-256 is not the one in {sums.name}")


def _expected_networks(opt: dict[str, Any], iteration: int) -> list[Path]:
    """Networks of a checkpoint without checksums: one of each label that the folder has and the options name."""
    ignored = opt["path"].get("ignore_resume_networks") or ()
    files = {label: path for path, label in _networks(opt["path"]["models"], iteration)}
    for _, label in _networks(opt["path"]["models"]):
        if f"network_{label}" in opt and f"network_{label}" not in ignored:
            files.setdefault(label, Path(opt["path"]["models"]) / f"net_{label}_{iteration}.pth")
    if not files:
        raise InputError(f"{opt['path']['models']}: the networks net_*_{iteration}.pth are missing")
    return list(files.values())


def _load_state(path: Path) -> dict[str, Any]:
    state = load_plain(path, "training state")
    if not isinstance(state, dict) or not isinstance(state.get("iter"), int):
        raise InputError(f"{path}: not a training state (it holds no iteration)")
    return state
