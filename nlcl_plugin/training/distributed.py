"""Join the processes of a run, let them agree, and leave; without BasicSR, except in `join_process_group`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from nlcl_plugin.data.folder_lock import locked
from nlcl_plugin.errors import InputError

T = TypeVar("T")


def check_launcher(launcher: str) -> None:
    """Raise an InputError if torchrun or srun started several processes but the launcher is `none`."""
    # SLURM_NTASKS is of the whole job, and set where a batch script starts a single process without srun.
    for name, needed in (("WORLD_SIZE", "pytorch"), ("SLURM_STEP_NUM_TASKS", "slurm")):
        count = os.environ.get(name, "")
        if launcher == "none" and count.isdecimal() and int(count) > 1:
            raise InputError(
                f"{count} processes were started together ({name}={count}), but --launcher is none, so that each would "
                f"do the whole job; add --launcher {needed}, or unset {name} where each has a job of its own"
            )


def get_dist_info() -> tuple[int, int]:
    """Rank of this process and the number of processes; 0 and 1 outside of a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def join_process_group(
    launcher: str, parameters: dict[str, Any], *, local_rank: int | None = None, on_gpu: bool = True
) -> None:
    """Join the process group of a launcher, `pytorch` or `slurm`; an `InputError` if the processes don't meet.

    `parameters` are checked `dist_params`. LOCAL_RANK in the environment wins over `local_rank`, which was an argument
    of the process.
    """
    from basicsr.utils.dist_util import init_dist

    from nlcl_plugin.config.blocks import DistOptions

    given = DistOptions(**parameters).model_dump(include=set(DistOptions.model_fields), exclude_none=True)
    if given["backend"] == "nccl" and not (on_gpu and torch.cuda.is_available() and dist.is_nccl_available()):
        given["backend"] = "gloo"
        if parameters.get("backend") == "nccl":
            warnings.warn("dist_params.backend: nccl needs GPUs, and this run has none; gloo is used", stacklevel=2)
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    try:
        init_dist(launcher, **given)
    except InputError:  # which is a ValueError
        raise
    except KeyError as error:
        command = {"pytorch": "torchrun", "slurm": "srun"}[launcher]
        raise InputError(
            f"--launcher {launcher}: {error} is not set; start with {command} (docs/many_gpus.md)"
        ) from error
    except (RuntimeError, ValueError, AssertionError) as error:  # wrong variables, an unknown host, a port in use
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"--launcher {launcher}: the processes don't find each other ({reason}); check dist_params, MASTER_ADDR, "
            "MASTER_PORT and that as many processes were started as each expects"
        ) from error


def from_rank_zero(make: Callable[[], T]) -> T:
    """Call a function on rank 0 and return (a copy of) what it returns on every rank, as well as an `InputError` of it.

    All processes must call this.
    """
    rank, world_size = get_dist_info()
    if world_size == 1:
        return make()
    outcome: list[Any] = [None, None]
    if rank == 0:
        try:
            outcome[0] = make()
        except InputError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome, src=0)
    value, fault = outcome
    if fault is not None:
        raise InputError(fault)
    return value


@contextmanager
def only_run(folder: str) -> Iterator[None]:
    """Lock a folder while this run is at work, an InputError on all its processes if another run is. All call it."""
    with ExitStack() as stack:
        from_rank_zero(lambda: stack.enter_context(locked(folder)))
        yield


def leave_process_group(code: int) -> int:
    """Wait until every process is here, destroy the process group, and return the highest exit code of all.

    A launcher ends all processes as soon as one exits with another code than 0, so one that was asked to stop must not
    exit while another is saving. There is no time limit: rank 0 may have a long summary to write.
    """
    rank, world_size = get_dist_info()
    if not dist.is_initialized():
        return code
    store = dist.distributed_c10d._get_default_store()  # a collective would have a time limit
    store.set(f"exit_code/{rank}", str(code))
    store.add("arrived", 1)
    while store.add("arrived", 0) < world_size:
        time.sleep(0.05)
    highest = max(int(store.get(f"exit_code/{other}")) for other in range(world_size))
    dist.barrier()  # rank 0 may hold the store and must not take it away before the others have read it
    dist.destroy_process_group()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # torchrun sends it when the first has exited; each keeps its code
    return highest


class Agreement:
    """A channel between the processes beside that of the gradients, on the CPU: asking costs no wait for a GPU.

    A process waits for the others for `timeout` seconds, 30 minutes by default.
    """

    def __init__(self, timeout: float | None = None) -> None:
        limit = None if timeout is None else timedelta(seconds=timeout)
        self._group: Any = dist.new_group(backend="gloo", timeout=limit) if get_dist_info()[1] > 1 else None

    def any(self, wanted: bool) -> bool:
        """Whether one process or more wants it; every process must ask."""
        if self._group is None:
            return wanted
        flag = torch.tensor([wanted], dtype=torch.uint8)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
        return bool(flag.item())


def init_process_group(backend: str, port: int | None = None, timeout: float | None = None, **kwargs: Any) -> None:
    """Join in the place of BasicSR's `_init_dist_pytorch`: also on a CPU, and with a restarted torchrun."""
    if port is not None:
        os.environ.setdefault("MASTER_PORT", str(port))
    if timeout is not None:
        kwargs["timeout"] = timedelta(seconds=timeout)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) % torch.cuda.device_count())
    elif backend == "nccl":
        backend = "gloo"
    if dist.is_torchelastic_launched():
        store, rank, world_size = next(dist.rendezvous("env://"))
        store = _store_of_this_attempt(store, rank, world_size, timeout or 1800)
        kwargs.update(store=store, rank=rank, world_size=world_size)
    dist.init_process_group(backend=backend, **kwargs)


def _store_of_this_attempt(store: Any, rank: int, world_size: int, timeout: float) -> Any:
    """The part of torchrun's store that only the processes of this attempt use.

    torchrun keeps its store over restarts, and torch 2.15 finds the addresses of dead processes in it. The number of
    restarts identifies attempts on one host only: another host's agent does not count those it takes part in. So rank
    0 names the attempt, and answers by that name, which a dead one does not.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("attempt", own)
        for other in range(1, world_size):
            store.wait([f"{own}/asked/{other}"], timedelta(seconds=timeout))
            store.set(f"{own}/answered/{store.get(f'{own}/asked/{other}').decode()}", "")
        return dist.PrefixStore(own, store)
    deadline = time.monotonic() + timeout
    while True:
        attempt = store.get("attempt").decode()
        store.set(f"{attempt}/asked/{rank}", own)
        try:
            store.wait([f"{attempt}/answered/{own}"], timedelta(seconds=1))
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
        else:
            return dist.PrefixStore(attempt, store)


def init_process_group_of_slurm(backend: str, port: int | None = None, **kwargs: Any) -> None:
    """Join in the place of BasicSR's `_init_dist_slurm`."""
    environment = os.environ
    environment["RANK"] = environment["SLURM_PROCID"]
    environment["WORLD_SIZE"] = environment["SLURM_NTASKS"]
    environment["LOCAL_RANK"] = environment.get("SLURM_LOCALID", environment["SLURM_PROCID"])
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _first_host_of_slurm()
    init_process_group(backend, port=29500 if port is None else port, **kwargs)


def _first_host_of_slurm() -> str:
    # The step's hosts, as srun can use only some of the job's.
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    hosts = next((os.environ[name] for name in names if os.environ.get(name)), "")
    try:
        shown = subprocess.run(["scontrol", "show", "hostnames", hosts], capture_output=True, text=True, timeout=60)
        return shown.stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        raise InputError(
            f"--launcher slurm: `scontrol show hostnames {hosts}` names no host; start with srun, or set MASTER_ADDR"
        ) from error
