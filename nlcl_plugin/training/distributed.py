"""Join the processes of a run, let them agree, and part; without BasicSR, except in `join_process_group`."""

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
from nlcl_plugin.errors import InputError, rank_in_environment

T = TypeVar("T")

_NEEDED = {
    "pytorch": (
        ("RANK", "WORLD_SIZE", "MASTER_ADDR"),
        "start with `torchrun --nproc_per_node=N -m nlcl_plugin train -opt ... --launcher pytorch`",
    ),
    "slurm": (
        ("SLURM_PROCID", "SLURM_NTASKS"),
        "start with `srun python -m nlcl_plugin train -opt ... --launcher slurm`, as tools/slurm_train.sh does",
    ),
}


def check_launcher(launcher: str) -> None:
    """Refuse a process that was started together with others and doesn't know it: each would do the whole job.

    Args:
        launcher: `none`, or what joins the processes.

    Raises:
        InputError: If it is `none`, and torchrun or srun started several.
    """
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
    """Join the process group of a launcher.

    Args:
        launcher: `pytorch` or `slurm`.
        parameters: `dist_params`: `backend` (NCCL by default; gloo where there is no GPU), `port` of the first host
            where the environment names none, and `timeout` of collectives in seconds.
        local_rank: The process's number on its host, if it was an argument; LOCAL_RANK in the environment wins.
        on_gpu: Whether the run uses GPUs.

    Raises:
        InputError: If the launcher's environment is missing, a parameter is wrong, or the processes don't find each
            other.
    """
    from basicsr.utils.dist_util import init_dist

    names, advice = _NEEDED[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise InputError(f"--launcher {launcher}: not set: {', '.join(missing)}; {advice}")
    parameters = _checked(parameters)
    if parameters["backend"] == "nccl" and not (on_gpu and torch.cuda.is_available() and dist.is_nccl_available()):
        parameters["backend"] = "gloo"
        if rank_in_environment() == "0":
            warnings.warn("dist_params.backend: nccl needs GPUs, and this run has none; gloo is used", stacklevel=2)
    if local_rank is not None:
        os.environ.setdefault("LOCAL_RANK", str(local_rank))
    try:
        init_dist(launcher, **parameters)
    except InputError:
        raise
    except (RuntimeError, ValueError) as error:  # unset or wrong variables, an unknown host, a port in use, a time-out
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"--launcher {launcher}: the processes don't find each other ({reason}); check MASTER_ADDR, MASTER_PORT "
            "and that as many processes were started as each expects"
        ) from error


def _checked(parameters: dict[str, Any]) -> dict[str, Any]:
    parameters = {"backend": "nccl", **parameters}
    backends = [name for name in dist.Backend.backend_list if name not in ("undefined", "fake")]
    if parameters["backend"] not in backends:
        raise InputError(
            f"dist_params.backend: expected one of {', '.join(backends)}, but received {parameters['backend']!r}"
        )
    for key in sorted(set(parameters) - {"backend", "port", "timeout"}):
        raise InputError(f"dist_params.{key}: unknown option; expected backend, port or timeout")
    port = parameters.get("port")
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 < port < 65536):
        raise InputError(f"dist_params.port: expected a number from 1 to 65535, but received {port!r}")
    timeout = parameters.get("timeout")
    if timeout is not None and (isinstance(timeout, bool) or not isinstance(timeout, int | float) or timeout <= 0):
        raise InputError(f"dist_params.timeout: expected seconds, a number above 0, but received {timeout!r}")
    return parameters


def from_rank_zero(make: Callable[[], T]) -> T:
    """Do something on rank 0 and give what comes of it to every process; all must call this.

    Args:
        make: Called on rank 0 only.

    Returns:
        What it returned; on other ranks a copy.

    Raises:
        InputError: On every rank, if it raised one.
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
    """Keep other runs out of a folder while the processes of this one are at work; all must call this.

    Args:
        folder: The folder; rank 0 locks it.

    Raises:
        InputError: On every rank, if another run is at work there.
    """
    with ExitStack() as stack:
        from_rank_zero(lambda: stack.enter_context(locked(folder)))
        yield


def leave_process_group(code: int) -> int:
    """Wait until every process is here, then destroy the process group.

    A launcher ends all processes as soon as one exits with another code than 0, so that one which has only been told to
    stop must not exit while another is saving. There is no time limit: rank 0 may have a long summary to write.

    Args:
        code: Exit code of this process.

    Returns:
        The highest of all processes, which each then exits with.
    """
    if not dist.is_initialized():
        return code
    rank, world_size = get_dist_info()
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

    Args:
        timeout: Seconds that a process waits for the others, 30 minutes by default.
    """

    def __init__(self, timeout: float | None = None) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        limit = None if timeout is None else timedelta(seconds=timeout)
        self._group: Any = dist.new_group(backend="gloo", timeout=limit) if several else None

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
    if torch.distributed.is_torchelastic_launched():
        store, rank, world_size = next(torch.distributed.rendezvous("env://"))
        store = _store_of_this_attempt(store, rank, world_size, timeout or 1800)
        kwargs.update(store=store, rank=rank, world_size=world_size)
    torch.distributed.init_process_group(backend=backend, **kwargs)


def _store_of_this_attempt(store: Any, rank: int, world_size: int, timeout: float) -> Any:
    """The part of torchrun's store that the processes of this attempt have to themselves.

    torchrun keeps its store over restarts, and torch 2.15 finds the addresses of the dead processes in it. The number
    of restarts tells attempts apart on one host only: another host's agent does not count those it takes part in. So
    rank 0 names the attempt, and answers by that name, which a dead one does not.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("attempt", own)
        for other in range(1, world_size):
            store.wait([f"{own}/asked/{other}"], timedelta(seconds=timeout))
            store.set(f"{own}/answered/{store.get(f'{own}/asked/{other}').decode()}", "")
        return torch.distributed.PrefixStore(own, store)
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
            return torch.distributed.PrefixStore(attempt, store)


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
    # The step's hosts, as srun can be told to use a part of the job's.
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    hosts = next((os.environ[name] for name in names if os.environ.get(name)), None)
    if hosts is None:
        raise InputError(f"--launcher slurm: none of {', '.join(names)} is set; start with srun, or set MASTER_ADDR")
    command = ["scontrol", "show", "hostnames", hosts]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        reason = "it shows none"
    except (OSError, subprocess.SubprocessError) as error:
        shown = []
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
    if not shown:
        raise InputError(f"--launcher slurm: `{' '.join(command)}` fails ({reason}); set MASTER_ADDR to the first host")
    return shown[0]
