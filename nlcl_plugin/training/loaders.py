"""The loaders of a training, with BasicSR's builders, and errors of single files, which name the file."""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher
from basicsr.utils import get_root_logger
from torch.utils.data import DataLoader, Dataset

from nlcl_plugin.data.image_io import decode_stored, read_bytes
from nlcl_plugin.data.sampler import EpochSampler, SeededDataset
from nlcl_plugin.errors import InputError, counted


class TrainingBatches:
    """Batches of one epoch after another, and the place in the epoch; an InputError if an epoch has no batch.

    Attributes:
        dataset: The training dataset.
        epoch: The epoch, counted from 0.
        place: Draws of the epoch that all processes together have used in batches.
        batch_size: Images per step, of all processes together.
        steps: Steps per epoch.
    """

    def __init__(self, opt: dict[str, Any]) -> None:
        options = dict(opt["datasets"]["train"])
        if opt["num_gpu"] and options.get("pin_memory") is None:
            options["pin_memory"] = True  # else the copy of each batch to the GPU waits for all that runs there
        self.dataset = SeededDataset(ExplainedDataset(build_dataset(options)), opt["manual_seed"])
        ratio = options.get("dataset_enlarge_ratio", 1)
        self._sampler = EpochSampler(self.dataset, opt["world_size"], opt["rank"], ratio)
        self._loader = build_dataloader(
            self.dataset, options, num_gpu=opt["num_gpu"], dist=opt["dist"], sampler=self._sampler, seed=0
        )
        # A generator of its own, as each start of a loader draws a number: resuming would draw one more.
        self._loader.generator = torch.Generator().manual_seed(opt["manual_seed"])
        if len(self._loader) == 0:
            processes = f" of each of {opt['world_size']} processes" if opt["dist"] else ""
            raise InputError(
                f"datasets.train: {len(self.dataset)} images × dataset_enlarge_ratio don't fill one batch of "
                f"{self._loader.batch_size}{processes}; lower batch_size_per_gpu or raise dataset_enlarge_ratio"
            )
        if self._loader.num_workers:
            self._loader.worker_init_fn = partial(_start_worker, self._loader.worker_init_fn)
            atexit.register(_end_workers)
        cuda = options.get("prefetch_mode") == "cuda"
        self._prefetch = partial(CUDAPrefetcher, self._loader, opt) if cuda else partial(CPUPrefetcher, self._loader)
        self._prefetcher: Any = None
        self.batch_size = self._loader.batch_size * opt["world_size"]
        self.steps = len(self._loader)
        self.epoch = self.place = 0
        iterations = int(opt["train"]["total_iter"])
        get_root_logger().info(
            f"Training on {counted(len(self.dataset), 'image')}: {counted(opt['world_size'], 'process')} × "
            f"{counted(self._loader.batch_size, 'image')} per step, {counted(self.steps, 'step')} per epoch, "
            f"{counted(iterations, 'step')}, {counted(math.ceil(iterations / self.steps), 'epoch')}."
        )

    def start_at(self, epoch: int, place: int) -> None:
        """Continue in the middle of an epoch; before the first batch."""
        self.epoch, self.place = epoch, place

    def next(self) -> dict[str, Any]:
        """The next batch, of the next epoch if this one is at its end."""
        if self._prefetcher is None:
            self._begin(self.epoch, self.place)
        batch = self._prefetcher.next()
        while batch is None:
            self._begin(self.epoch + 1, 0)
            batch = self._prefetcher.next()
        self.place += self.batch_size
        return batch

    def _begin(self, epoch: int, place: int) -> None:
        self.epoch, self.place = epoch, place
        self._sampler.set_epoch(epoch, place)
        if self._prefetcher is None:  # only now, as it starts the workers and reads
            self._prefetcher = self._prefetch()
        else:
            self._prefetcher.reset()


def _start_worker(initialise: Callable[[int], None], worker_id: int) -> None:
    # Launchers send a signal to the workers too, which have to outlive the step and the saving that the first one asks
    # their process for.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: signal.signal(number, signal.SIG_DFL))
    initialise(worker_id)


def _end_workers() -> None:
    # Python ends them with one signal, which they are to outlive, and waits.
    if hasattr(signal, "SIGCHLD"):  # not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler would complain about each
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def evaluation_loader(opt: dict[str, Any], options: dict[str, Any]) -> DataLoader[Any]:
    """The loader of one dataset for validation or testing, whole images one by one."""
    dataset = ExplainedDataset(build_dataset(options))
    get_root_logger().info(f"Number of images in {options['name']}: {len(dataset)}")
    return build_dataloader(dataset, options, num_gpu=opt["num_gpu"], dist=opt["dist"])


class ExplainedDataset(Dataset[Any]):
    """A dataset that names the files of the sample that it fails on: those in BasicSR's `paths`.

    Stock datasets fail with an AttributeError that names no file. Attributes are those of the dataset inside.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        """The length of the dataset inside."""
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        """Load a sample; an InputError if the dataset raised a ValueError, or a file is missing or unreadable."""
        try:
            return self.dataset[index]
        except (InputError, IndexError):  # the latter ends a plain loop
            raise
        except Exception as error:
            files = self._files(index)
            for file in files:
                if os.path.isfile(file) or getattr(error, "filename", None) == file:
                    decode_stored(read_bytes(file), file)  # raises an InputError that names it
            if not isinstance(error, ValueError):  # BasicSR's, of images that don't fit each other
                raise
            on = f" fails on {' and '.join(files)}" if files else ""
            reason = "".join(map(str, error.args)).strip()  # BasicSR splits some messages into two arguments
            raise InputError(f"{type(self.dataset).__name__}{on}: {reason}") from error

    def __getattr__(self, name: str) -> Any:
        """Look up what is not here in the dataset inside."""
        if name == "dataset":  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def _files(self, index: int) -> list[str]:
        paths = getattr(self.dataset, "paths", ())
        if len(paths) != len(self.dataset):
            return []
        entry = paths[int(index)]
        return [str(path) for path in (entry.values() if isinstance(entry, dict) else [entry])]


@contextlib.contextmanager
def faults_of_workers() -> Iterator[None]:
    """Make one line of a loader worker's InputError, which arrives with its traceback as text, the message last."""
    try:
        yield
    except InputError as error:
        message = str(error).strip().splitlines()[-1].removeprefix(f"{InputError.__module__}.{InputError.__name__}: ")
        raise InputError(message) from error
