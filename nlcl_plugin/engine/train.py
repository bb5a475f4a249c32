"""Training: BasicSR's loop with its own builders, ended by a summary of what was reached."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import time
from dataclasses import dataclass, field
from os import path as osp
from types import FrameType
from typing import Any

import basicsr
import torch
import torchvision
from basicsr.data.prefetch_dataloader import CPUPrefetcher, CUDAPrefetcher
from basicsr.models import build_model
from basicsr.train import create_train_val_dataloader, init_tb_loggers, load_resume_state
from basicsr.utils import AvgTimer, MessageLogger, get_root_logger, get_time_str, make_exp_dirs, mkdir_and_rename
from basicsr.utils.options import copy_opt_file, dict2str

import nlcl_plugin
from nlcl_plugin.engine.loading import explained
from nlcl_plugin.engine.summary import summarise
from nlcl_plugin.errors import InputError, TrainingStoppedError

SKIPPED, INTERRUPTED = 3, 5  # exit codes


def train(opt: dict[str, Any], option_file: str) -> int:
    """Train the model of an option file.

    Args:
        opt: Options of `engine.launch.start`.
        option_file: Where they came from; copied into the experiment folder.

    Returns:
        The exit code: 0; 3 if unreadable images were skipped; 5 if a signal ended the training, its state saved.

    Raises:
        InputError: If a file is unreadable or there are too few images for a batch.
        TrainingStoppedError: If training stopped itself.
    """
    resume_state = load_resume_state(opt)
    if resume_state is None:
        make_exp_dirs(opt)
        if opt["logger"]["use_tb_logger"] and "debug" not in opt["name"] and opt["rank"] == 0:
            mkdir_and_rename(osp.join(opt["root_path"], "tb_logger", opt["name"]))
    elif opt["rank"] == 0:
        os.makedirs(opt["path"]["visualization"], exist_ok=True)
    if opt["dist"]:
        torch.distributed.barrier()  # the folders of rank 0 exist
    copy_opt_file(option_file, opt["path"]["experiments_root"])
    logger = start_logger(opt, "train")
    tb_logger = init_tb_loggers(opt)

    # The stock function divides by the loader's length and counts epochs; only its loaders and sampler are used here.
    train_loader, sampler, val_loaders, _, total_iter = create_train_val_dataloader(opt, logger)
    if len(train_loader) == 0:
        raise InputError(
            f"datasets.train: {len(train_loader.dataset)} images × dataset_enlarge_ratio don't fill one batch of "
            f"{train_loader.batch_size}; lower batch_size_per_gpu or raise dataset_enlarge_ratio"
        )
    model = build_model(opt)
    epoch = current_iter = 0
    if resume_state:
        model.resume_training(resume_state)
        epoch, current_iter = resume_state["epoch"], resume_state["iter"]
        logger.info(f"Resuming from epoch {epoch}, iteration {current_iter}.")

    prefetcher = CUDAPrefetcher(train_loader, opt) if _prefetch(opt) == "cuda" else CPUPrefetcher(train_loader)
    loop = _Loop(opt, model, prefetcher, sampler, val_loaders, tb_logger, epoch, current_iter)
    with StopRequest() as stop:
        try:
            loop.run(stop)
        except TrainingStoppedError as error:
            logger.error(f"Training stopped: {error}")
            raise
        if stop.requested:
            model.save(loop.epoch, loop.current_iter)
            logger.info(f"Interrupted: state of iteration {loop.current_iter} saved; go on with --auto_resume.")
            return INTERRUPTED
    logger.info(f"End of training ({total_iter} iterations). Saving the latest model.")
    model.save(epoch=-1, current_iter=-1)
    if opt.get("val"):
        loop.validate()
        if opt["rank"] == 0:
            summarise(model, val_loaders, opt)
    if tb_logger:
        tb_logger.close()
    if loop.skipped:
        listed = "\n".join(f"  {path}" for path in sorted(loop.skipped))
        logger.warning(f"Trained without {len(loop.skipped)} files that could not be read:\n{listed}")
        return SKIPPED
    return 0


def start_logger(opt: dict[str, Any], kind: str) -> logging.Logger:
    """Open the log file of a run and log versions and options."""
    log_file = osp.join(opt["path"]["log"], f"{kind}_{opt['name']}_{get_time_str()}.log")
    logger = get_root_logger(log_level=logging.INFO, log_file=log_file)
    logger.info(
        f"nlcl_plugin {nlcl_plugin.__version__}, BasicSR {basicsr.__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, "
        f"{'GPU ' + torch.cuda.get_device_name() if opt['num_gpu'] else 'CPU'}"
    )
    logger.info(dict2str(opt))
    return logger


@dataclass
class _Loop:
    """Iterations of a training, and where they are."""

    opt: dict[str, Any]
    model: Any
    prefetcher: Any
    sampler: Any
    val_loaders: list[Any]
    tb_logger: Any
    epoch: int
    current_iter: int
    skipped: set[str] = field(default_factory=set)

    def run(self, stop: StopRequest) -> None:
        """Iterate to `total_iter` or until a stop is requested."""
        total_iter = int(self.opt["train"]["total_iter"])
        self._message = MessageLogger(self.opt, self.current_iter + 1, self.tb_logger)
        self._message.max_iters += 1  # it counts one iteration too few and would end with an ETA of minus one day
        self._data_timer, self._iter_timer = AvgTimer(), AvgTimer()
        start = time.time()
        while self.current_iter < total_iter and not stop.requested:
            self.sampler.set_epoch(self.epoch)
            batch = self._next(first=True)
            while batch is not None and self.current_iter < total_iter and not stop.requested:
                self._step(batch)
                # The last validation comes after the last checkpoint.
                if self.current_iter < total_iter and self.opt.get("val") and self._is_due("val", "val_freq"):
                    self.validate()
                self._data_timer.start()
                self._iter_timer.start()
                batch = self._next()
            if batch is None:
                self.epoch += 1
        get_root_logger().info(f"Time consumed: {datetime.timedelta(seconds=int(time.time() - start))}")

    def validate(self) -> None:
        """Validate on every validation dataset."""
        for loader in self.val_loaders:
            with explained(loader.dataset):
                self.model.validation(loader, self.current_iter, self.tb_logger, self.opt["val"]["save_img"])

    def _next(self, first: bool = False) -> Any:
        with explained(self.sampler.dataset):
            if first:
                self.prefetcher.reset()
            batch = self.prefetcher.next()
        for paths in (batch or {}).get("skipped", ()):
            self.skipped.update(filter(None, paths.split("\n")))
        return batch

    def _is_due(self, block: str, key: str) -> bool:
        return self.current_iter % int(self.opt[block][key]) == 0

    def _step(self, batch: Any) -> None:
        self._data_timer.record()
        self.current_iter += 1
        self.model.update_learning_rate(self.current_iter, warmup_iter=self.opt["train"].get("warmup_iter", -1))
        self.model.feed_data(batch)
        self.model.optimize_parameters(self.current_iter)
        self._iter_timer.record()
        if self._is_due("logger", "print_freq"):
            times = {"time": self._iter_timer.get_avg_time(), "data_time": self._data_timer.get_avg_time()}
            place = {"epoch": self.epoch, "iter": self.current_iter, "lrs": self.model.get_current_learning_rate()}
            self._message({**place, **times, **self.model.get_current_log()})
        if self._is_due("logger", "save_checkpoint_freq"):
            get_root_logger().info("Saving models and training states.")
            self.model.save(self.epoch, self.current_iter)


def _prefetch(opt: dict[str, Any]) -> str | None:
    return opt["datasets"]["train"].get("prefetch_mode")


class StopRequest:
    """Within it, the first SIGINT or SIGTERM asks training to finish the step and save; a second one ends at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        for number in self._before:
            signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(number, signal.SIG_DFL)
