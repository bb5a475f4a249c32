"""Every repair of BasicSR 1.4.2 (2022, its last release) on today's libraries: one function each, with its reason.

`import nlcl_plugin` applies them all; applying them twice changes nothing. They also serve stock BasicSR scripts that
import `nlcl_plugin` first.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from nlcl_plugin.errors import InputError


def repair_basicsr() -> None:
    """Apply every repair of this file."""
    restore_functional_tensor()
    share_lmdb_environments()
    draw_anew_every_epoch()
    reseed_workers_every_epoch()
    launch_without_gpu()
    wrap_networks_without_gpu()
    resume_without_gpu()
    save_whole_files()
    pass_on_prefetch_errors()


def restore_functional_tensor() -> None:
    """`import basicsr` needs `torchvision.transforms.functional_tensor`, which is gone since torchvision 0.17."""
    name = "torchvision.transforms.functional_tensor"
    if name in sys.modules:
        return
    try:
        __import__(name)
    except ModuleNotFoundError:
        from torchvision.transforms.functional import rgb_to_grayscale

        module = ModuleType(name, "The part of the former torchvision module that BasicSR 1.4.2 uses.")
        module.rgb_to_grayscale = rgb_to_grayscale  # type: ignore[attr-defined]
        sys.modules[name] = module


def share_lmdb_environments() -> None:
    """Lmdb >= 2 refuses to open a path twice in a process, so training and validating on one LMDB died."""
    from basicsr.utils.file_client import LmdbBackend

    from nlcl_plugin.data.lmdb_store import open_environment

    def __init__(  # noqa: N807
        self: Any,
        db_paths: str | list[str],
        client_keys: str | list[str] = "default",
        readonly: bool = True,
        lock: bool = False,
        readahead: bool = False,
        **kwargs: Any,
    ) -> None:
        paths = [str(path) for path in (db_paths if isinstance(db_paths, list) else [db_paths])]
        names = client_keys if isinstance(client_keys, list) else [client_keys]
        if len(paths) != len(names):
            raise ValueError(f"client_keys and db_paths must be as many, but received {len(names)} and {len(paths)}")
        self.db_paths = paths
        self._paths = dict(zip(names, paths, strict=True))

    def get(self: Any, filepath: str, client_key: str) -> bytes | None:
        # Looked up at each read, so that a forked worker opens an environment of its own.
        return open_environment(self._paths[client_key]).get(str(filepath).encode("ascii"))

    LmdbBackend.__init__ = __init__
    LmdbBackend.get = get


def draw_anew_every_epoch() -> None:
    """Datasets cannot know the epoch, so an unpaired one would draw the same partners and crops in each.

    The sampler yields `SampleIndex` (an int that knows its epoch and draw) in the same order as before.
    """
    from basicsr.data.data_sampler import EnlargedSampler

    from nlcl_plugin.data.sampler import SampleIndex, with_epoch

    if getattr(EnlargedSampler.__iter__, "knows_epoch", False):
        return

    def __iter__(self: Any) -> Iterator[SampleIndex]:  # noqa: N807
        generator = torch.Generator().manual_seed(self.epoch)
        draws = torch.randperm(self.total_size, generator=generator).tolist()
        own = draws[self.rank : self.total_size : self.num_replicas]
        return iter(with_epoch(own, epoch=self.epoch, size=len(self.dataset)))

    __iter__.knows_epoch = True  # type: ignore[attr-defined]
    EnlargedSampler.__iter__ = __iter__


def reseed_workers_every_epoch() -> None:
    """Loader workers were seeded with a constant, so stock datasets cut and flipped alike in every epoch."""
    import basicsr.data

    basicsr.data.worker_init_fn = _seed_worker


def _seed_worker(worker_id: int, num_workers: int, rank: int, seed: int) -> None:
    # torch.initial_seed() in a worker is a base seed drawn anew for each epoch from the main process (whose seed holds
    # the rank), plus the worker's number.
    worker_seed = torch.initial_seed() % 2**32
    np.random.seed(worker_seed)  # noqa: NPY002  stock datasets use the global generators
    random.seed(worker_seed)


def launch_without_gpu() -> None:
    """`init_dist` divided by the number of GPUs, used the global rank as device, and ignored the port."""
    import basicsr.utils.dist_util

    basicsr.utils.dist_util._init_dist_pytorch = _init_process_group


def _init_process_group(backend: str, port: int | None = None, **kwargs: Any) -> None:
    if port is not None:
        os.environ.setdefault("MASTER_PORT", str(port))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", os.environ["RANK"])) % torch.cuda.device_count())
    elif backend == "nccl":
        backend = "gloo"
    torch.distributed.init_process_group(backend=backend, **kwargs)


def wrap_networks_without_gpu() -> None:
    """`model_to_device` gave DistributedDataParallel a CUDA device id, which fails on a CPU."""
    from basicsr.models.base_model import BaseModel

    def model_to_device(self: Any, net: nn.Module) -> nn.Module:
        net = net.to(self.device)
        if self.opt["dist"] and any(p.requires_grad for p in net.parameters()):
            device_ids = [torch.cuda.current_device()] if self.device.type == "cuda" else None
            unused = self.opt.get("find_unused_parameters", False)
            return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=unused)
        if not self.opt["dist"] and self.opt["num_gpu"] > 1:
            return DataParallel(net)
        return net

    BaseModel.model_to_device = model_to_device


def resume_without_gpu() -> None:
    """`load_resume_state` asked for the current CUDA device, and looked for states below the current folder only."""
    import basicsr.train

    basicsr.train.load_resume_state = load_resume_state


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Load the training state to resume from, if there is one.

    Args:
        opt: Options with `auto_resume` and `path`; `path.resume_state` and the networks' `pretrain_network_*` are set.

    Returns:
        The state, or None for a fresh start.
    """
    from basicsr.utils import check_resume

    path = opt["path"].get("resume_state")
    if opt["auto_resume"]:
        folder = opt["path"]["training_states"]
        names = os.listdir(folder) if os.path.isdir(folder) else []
        iterations = [int(name.removesuffix(".state")) for name in names if re.fullmatch(r"\d+\.state", name)]
        if iterations:
            path = opt["path"]["resume_state"] = os.path.join(folder, f"{max(iterations)}.state")
    if path is None:
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        iteration = state["iter"]
    except Exception as error:  # torch.load raises nearly anything on a file that is no checkpoint
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: not a training state ({reason}); delete it to resume from the one before") from error
    check_resume(opt, iteration)
    return state


def save_whole_files() -> None:
    """Checkpoints were written under their final name and errors swallowed: a kill left half a file to resume from."""
    from basicsr.models import base_model

    # BasicSR's module calls `torch.save`; only there it now means `save`, so that its own code stays in use.
    base_model.torch = _TorchWithWholeSaves("torch")


class _TorchWithWholeSaves(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    @staticmethod
    def save(content: Any, path: str) -> None:
        """`torch.save` to a temporary file that gets its name when it is whole and on the disk."""
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.remove(temporary)
            # BasicSR tries again on an Exception and then goes on without a checkpoint; this ends the run instead.
            raise SystemExit(f"error: cannot save {path}: {error}") from error


def pass_on_prefetch_errors() -> None:
    """With `prefetch_mode: cpu`, an unreadable image ended the loading thread and training waited for ever."""
    from basicsr.data.prefetch_dataloader import PrefetchGenerator

    def run(self: Any) -> None:
        try:
            for item in self.generator:
                self.queue.put(item)
            self.queue.put(None)
        except Exception as error:
            self.queue.put(error)

    def __next__(self: Any) -> Any:  # noqa: N807
        item = self.queue.get()
        if item is None:
            raise StopIteration
        if isinstance(item, Exception):
            raise item
        return item

    PrefetchGenerator.run = run
    PrefetchGenerator.__next__ = __next__
