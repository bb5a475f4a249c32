"""Training: BasicSR's loop with its own builders, ended by a summary of what was reached."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import time
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

INTERRUPTED = 5


def train(opt: dict[str, Any], option_file: str) -> int:
    """Train the model of an option file.

    Args:
        opt: Options of `engine.launch.start`.
        option_file: Where they came from; copied into the experiment folder.

    Returns:
        The exit code: 0, or 5 if a signal ended the training after its state was saved.

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
    message_logger = MessageLogger(opt, current_iter + 1, tb_logger)
    message_logger.max_iters += 1  # it counts one iteration too few and would end with an ETA of minus one day
    with StopRequest() as stop:
        try:
            epoch, current_iter = _iterate(
                opt, model, prefetcher, sampler, val_loaders, message_logger, tb_logger, epoch, current_iter, stop
            )
        except TrainingStoppedError as error:
            logger.error(f"Training stopped: {error}")
            raise
        if stop.requested:
            model.save(epoch, current_iter)
            logger.info(f"Interrupted: state of iteration {current_iter} saved; go on with --auto_resume.")
            return INTERRUPTED
    logger.info(f"End of training ({total_iter} iterations). Saving the latest model.")
    model.save(epoch=-1, current_iter=-1)
    if opt.get("val"):
        _validate(opt, model, val_loaders, current_iter, tb_logger)
        if opt["rank"] == 0:
            summarise(model, val_loaders, opt)
    if tb_logger:
        tb_logger.close()
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


def _iterate(
    opt: dict[str, Any],
    model: Any,
    prefetcher: Any,
    sampler: Any,
    val_loaders: list[Any],
    message_logger: Any,
    tb_logger: Any,
    epoch: int,
    current_iter: int,
    stop: StopRequest,
) -> tuple[int, int]:
    """Iterate to `total_iter` or until a stop is requested; returns the epoch and iteration reached."""
    total_iter = int(opt["train"]["total_iter"])
    logger = get_root_logger()
    data_timer, iter_timer = AvgTimer(), AvgTimer()
    start = time.time()
    while current_iter < total_iter and not stop.requested:
        sampler.set_epoch(epoch)
        with explained(sampler.dataset):
            prefetcher.reset()
            batch = prefetcher.next()
        while batch is not None and current_iter < total_iter and not stop.requested:
            data_timer.record()
            current_iter += 1
            model.update_learning_rate(current_iter, warmup_iter=opt["train"].get("warmup_iter", -1))
            model.feed_data(batch)
            model.optimize_parameters(current_iter)
            iter_timer.record()
            if current_iter % opt["logger"]["print_freq"] == 0:
                times = {"time": iter_timer.get_avg_time(), "data_time": data_timer.get_avg_time()}
                rates = {"lrs": model.get_current_learning_rate()}
                message_logger({"epoch": epoch, "iter": current_iter, **rates, **times, **model.get_current_log()})
            if current_iter % opt["logger"]["save_checkpoint_freq"] == 0:
                logger.info("Saving models and training states.")
                model.save(epoch, current_iter)
            if opt.get("val") and current_iter % opt["val"]["val_freq"] == 0 and current_iter < total_iter:
                _validate(opt, model, val_loaders, current_iter, tb_logger)
            data_timer.start()
            iter_timer.start()
            with explained(sampler.dataset):
                batch = prefetcher.next()
        if batch is None:
            epoch += 1
    logger.info(f"Time consumed: {datetime.timedelta(seconds=int(time.time() - start))}")
    return epoch, current_iter


def _validate(opt: dict[str, Any], model: Any, loaders: list[Any], current_iter: int, tb_logger: Any) -> None:
    for loader in loaders:
        with explained(loader.dataset):
            model.validation(loader, current_iter, tb_logger, opt["val"]["save_img"])


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
