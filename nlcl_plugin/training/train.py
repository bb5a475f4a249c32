"""Training: iterations, logs, validations and checkpoints, ended by a summary of what was reached; and testing."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import time
from os import path as osp
from typing import Any, NoReturn

import basicsr
import torch
import torchvision
from basicsr.models import build_model
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.train import init_tb_loggers
from basicsr.utils import AvgTimer, MessageLogger, get_root_logger, get_time_str, make_exp_dirs, mkdir_and_rename
from basicsr.utils.logger import initialized_logger
from basicsr.utils.options import copy_opt_file, dict2str

from nlcl_plugin.config.option_files import FOLDERS, difference, plain, plain_options, write_options
from nlcl_plugin.data.files import natural_key
from nlcl_plugin.errors import InputError, TrainingStoppedError, counted
from nlcl_plugin.models.validation import ValidationMixin
from nlcl_plugin.training import checkpoint
from nlcl_plugin.training.distributed import Agreement
from nlcl_plugin.training.json_log import JsonLog, read_json_lines, record_start
from nlcl_plugin.training.loaders import TrainingBatches, evaluation_loader, faults_of_workers
from nlcl_plugin.training.memory import give_back_freed_memory
from nlcl_plugin.training.summary import summarise
from nlcl_plugin.version import __version__

SKIPPED, INTERRUPTED = 3, 5  # exit codes


def train(opt: dict[str, Any], option_file: str) -> int:
    """Train the model of an option file.

    `opt` comes from `training.launch.start`; `option_file` is copied into the experiment folder. Returns the exit code:
    0; 3 if unreadable images were skipped; 5 if a signal ended the training, its state saved.

    Raises:
        InputError: If a file is unreadable or there are too few images for a batch.
        TrainingStoppedError: If training stopped itself.
    """
    options = plain_options(opt)  # now, as resuming and BasicSR's builders change some of them
    resume_state = checkpoint.load_resume_state(opt)
    _make_folders(opt, options, new=resume_state is None, option_file=option_file)
    start_logger(opt, "train")
    run = _Run(opt, options)
    if resume_state is not None:
        run.resume(resume_state)
    run.open_logs()
    with StopRequest() as stop:
        try:
            run.iterate(stop)
        except TrainingStoppedError as error:
            get_root_logger().error(f"Training stopped: {error}")
            raise
    if run.interrupted:
        get_root_logger().info(f"Interrupted: state of iteration {run.current_iter} saved; resume with --auto_resume.")
        return INTERRUPTED
    return run.finish()


def test(opt: dict[str, Any]) -> int:
    """Derain every test dataset and save images, figures and comparison pictures; returns the exit code 0.

    `opt` comes from `training.launch.start`. An InputError if a file is unreadable.
    """
    make_folders(opt)
    logger = start_logger(opt, "test")
    loaders = [evaluation_loader(opt, opt["datasets"][name]) for name in sorted(opt["datasets"], key=natural_key)]
    model = build_model(opt)
    for loader in loaders:
        model.validation(loader, current_iter=opt["name"], tb_logger=None, save_img=opt["val"]["save_img"])
    if opt["rank"] == 0 and isinstance(model, ValidationMixin):
        summarise(model, loaders, opt["path"]["results_root"])
    logger.info(f"Results: {opt['path']['results_root']}")
    return 0


def start_logger(opt: dict[str, Any], kind: str) -> logging.Logger:
    """Open the log file of a run and log versions and options."""
    log_file = osp.join(opt["path"]["log"], f"{kind}_{opt['name']}_{get_time_str()}.log")
    # Whatever asked for the logger before, such as a user's module, opened it for good and without a file.
    initialized_logger.pop("basicsr", None)
    for handler in list(logging.getLogger("basicsr").handlers):
        logging.getLogger("basicsr").removeHandler(handler)
    logger = get_root_logger(log_level=logging.INFO, log_file=log_file)
    logger.info(
        f"nlcl_plugin {__version__}, BasicSR {basicsr.__version__}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, "
        f"{'GPU ' + torch.cuda.get_device_name() if opt['num_gpu'] else 'CPU'}"
    )
    logger.info(dict2str(opt))
    return logger


def make_folders(opt: dict[str, Any]) -> None:
    """Make the folders of a new run, with what was there under another name; only those, whatever `path` holds."""
    make_exp_dirs({**opt, "path": {key: path for key, path in opt["path"].items() if key in FOLDERS}})


def _make_folders(opt: dict[str, Any], options: dict[str, Any], *, new: bool, option_file: str) -> None:
    if new:
        make_folders(opt)
        if opt["logger"]["use_tb_logger"] and "debug" not in opt["name"] and opt["rank"] == 0:
            mkdir_and_rename(osp.join(opt["root_path"], "tb_logger", opt["name"]))
    elif opt["rank"] == 0:
        os.makedirs(opt["path"]["visualization"], exist_ok=True)
    if opt["dist"]:
        torch.distributed.barrier()  # the folders of rank 0 exist
    if opt["rank"] == 0:
        copy_opt_file(option_file, opt["path"]["experiments_root"])
        write_options(osp.join(opt["path"]["experiments_root"], "options.yml"), options)


def _without_effect(changes: list[str], options: dict[str, Any]) -> list[str]:
    """Say which changed options a resumed run does not follow, as its state has them."""
    warnings = []
    if any(line.startswith("train.optim_") for line in changes):
        warnings.append("Optimizers continue with the rates and arguments of the checkpoint all the same.")
    schedule = (options["train"].get("scheduler") or {}).get("type")
    if schedule != "LinearDecayLR" and any(line.startswith("train.scheduler") for line in changes):
        warnings.append(f"The schedule ({schedule}) continues with the arguments of the checkpoint all the same.")
    return warnings


class _Run:
    """A training: what it consists of, and where it is."""

    def __init__(self, opt: dict[str, Any], options: dict[str, Any]) -> None:
        self.opt = opt
        self._options = options
        self.total_iter = int(opt["train"]["total_iter"])
        self.current_iter = 0
        self.interrupted = False
        self._skipped: set[str] = set()
        self._agreement = Agreement((opt.get("dist_params") or {}).get("timeout"))
        self._tb_logger = init_tb_loggers(opt)
        self._losses: JsonLog | None = None  # rank 0 writes them
        self._metrics: JsonLog | None = None
        self._best: dict[str, Any] | None = None  # the best validation, on rank 0
        self.batches = TrainingBatches(opt)
        validated = [block for key, block in opt["datasets"].items() if key.split("_")[0] == "val"]
        self.val_loaders = [evaluation_loader(opt, block) for block in validated]
        self.model: Any = build_model(opt)

    def resume(self, state: dict[str, Any]) -> None:
        """Continue from a training state."""
        logger = get_root_logger()
        run = state.get("run", {})  # a state of stock BasicSR has none
        changes = difference(run["options"], self._options) if "options" in run else []
        for line in changes:
            logger.warning(f"Option changed since the checkpoint: {line}")
        if another := [line for line in changes if line.startswith("train.scheduler.type")]:
            raise InputError(
                f"{another[0]}: a resumed training keeps its kind of schedule; set it back, or start afresh from its "
                "networks (path.pretrain_network_*)"
            )
        for warning in _without_effect(changes, self._options):
            logger.warning(warning)
        try:
            self.model.resume_training(state)
        except AssertionError as error:  # BasicSR's, which says neither what is there nor what to do
            raise InputError(
                f"{self.opt['path']['resume_state']}: contains {len(state['optimizers'])} optimizers where these "
                f"options need {len(self.model.optimizers)}; resume with the losses and stages it was trained with, or "
                "start afresh from its networks (path.pretrain_network_*)"
            ) from error
        self.current_iter = state["iter"]
        self.batches.start_at(state["epoch"], run.get("place", 0))
        if run.get("best") is not None:
            self.model.best_metric_results = run["best"]
        self._skipped.update(run.get("skipped", ()))
        logger.info(f"Resuming from epoch {state['epoch']}, iteration {self.current_iter}.")
        if not checkpoint.restore_random(run.get("random")):
            # Our model draws from the iteration and needs no state; the global generators are seeded again.
            torch.manual_seed(self.opt["manual_seed"] + self.opt["rank"] + self.opt["world_size"] * self.current_iter)
            logger.warning(
                "The checkpoint is of another number of processes or of stock BasicSR: generators seeded anew."
            )

    def open_logs(self) -> None:
        """Open the files of losses and metrics, without what came after the iteration that the run continues from."""
        if self.opt["rank"] == 0:
            folder = self.opt["path"]["experiments_root"]
            record_start(folder, self.opt, self.current_iter)
            self._losses = JsonLog(osp.join(folder, "losses.jsonl"), self.current_iter)
            self._metrics = JsonLog(osp.join(folder, "metrics.jsonl"), self.current_iter)
            self._is_best()
            checkpoint.write_best(self.opt, self._best)

    def iterate(self, stop: StopRequest) -> None:
        """Iterate to `total_iter`, or until one of the processes was asked to stop."""
        self._message = MessageLogger(self.opt, self.current_iter + 1, self._tb_logger)
        self._message.max_iters += 1  # it counts one iteration too few and would end with an ETA of minus one day
        self._data_timer, self._iter_timer = AvgTimer(), AvgTimer()
        start = time.time()
        while self.current_iter < self.total_iter:
            self._step(self._next_batch())
            last = self.current_iter == self.total_iter
            # Before the checkpoint, which contains the best figures; the last validation comes with the summary.
            due = not last and self.opt.get("val") and self._is_due("val", "val_freq")
            fault = self._validate() if due else None
            best = due and self._agreement.any(fault is None and self._is_best())
            self.interrupted = self._agreement.any(stop.requested or fault is not None)
            if fault is not None:
                self._save_before(fault)
            # The last too, so that training can be continued from it.
            if last or best or self.interrupted or self._is_due("logger", "save_checkpoint_freq"):
                get_root_logger().info("Saving models and training states.")
                self._save()
            if self.interrupted:
                break
        get_root_logger().info(f"Time consumed: {datetime.timedelta(seconds=int(time.time() - start))}")

    def finish(self) -> int:
        """Save the latest networks, validate, summarise; returns the exit code."""
        logger = get_root_logger()
        logger.info(f"End of training ({self.total_iter} iterations). Saving the latest model.")
        self.model.save(epoch=-1, current_iter=-1)
        skipped = self._gathered_skipped()  # now, as the other processes don't wait for the summary in a collective
        fault = self._validate() if self.opt.get("val") else None
        self._is_best()
        self._sort_checkpoints("latest")
        if fault is not None:
            raise fault
        if self._best:
            best = self._best
            files = f"models/net_*_{best['iter']}.pth"
            logger.info(f"Best {best['metric']}: {best['value']:.4f} at iteration {best['iter']} ({files}).")
        if self.opt.get("val") and self.opt["rank"] == 0:
            summarise(self.model, self.val_loaders, self.opt["path"]["experiments_root"], self._best)
        if self._tb_logger:
            self._tb_logger.close()
        if skipped:
            listed = "\n".join(f"  {path}" for path in skipped)
            logger.warning(f"Trained without {counted(len(skipped), 'file')} that could not be read:\n{listed}")
            return SKIPPED
        return 0

    def _next_batch(self) -> dict[str, Any]:
        self._data_timer.start()
        self._iter_timer.start()
        try:
            with faults_of_workers():
                batch = self.batches.next()
        except Exception as error:
            if self.current_iter and not self.opt["dist"]:  # several processes: the others are in their step and wait
                self._save_before(error)
            raise
        for paths in batch.get("skipped", ()):
            self._skipped.update(filter(None, paths.split("\n")))
        self._data_timer.record()
        return batch

    def _step(self, batch: dict[str, Any]) -> None:
        self.current_iter += 1
        self.model.update_learning_rate(self.current_iter, warmup_iter=self.opt["train"].get("warmup_iter", -1))
        self.model.feed_data(batch)
        self.model.optimize_parameters(self.current_iter)
        self._iter_timer.record()
        if self._is_due("logger", "print_freq"):
            self._print()

    def _print(self) -> None:
        times = {"time": self._iter_timer.get_avg_time(), "data_time": self._data_timer.get_avg_time()}
        rates = self.model.get_current_learning_rate()
        losses = dict(self.model.get_current_log())
        self._message({"epoch": self.batches.epoch, "iter": self.current_iter, "lrs": rates, **times, **losses})
        if self._losses:
            by_optimizer: dict[str, float] = getattr(self.model, "learning_rates", dict)()  # stock models have one rate
            named = {"lr": rates[0], **{f"lr_{name}": rate for name, rate in by_optimizer.items()}}
            self._losses.write({"iter": self.current_iter, "epoch": self.batches.epoch, **named, **losses})
        if self._tb_logger:
            self._tb_logger.add_scalar("lr", rates[0], self.current_iter)  # BasicSR sends the losses and not this

    def _validate(self) -> Exception | None:
        """Validate; returns what went wrong, so that all processes can save the state before it is raised."""
        try:
            for loader in self.val_loaders:
                dataset: Any = loader.dataset
                self.model.validation(loader, self.current_iter, self._tb_logger, self.opt["val"]["save_img"])
                give_back_freed_memory()  # images of many sizes leave pieces that no training step fits into
                if self._metrics:  # those of the dataset that was validated last, of our models and BasicSR's
                    metrics = plain(getattr(self.model, "metric_results", None) or {})
                    entry = {"iter": self.current_iter, "dataset": dataset.opt["name"]}
                    self._metrics.write({**entry, "images": len(dataset), "metrics": metrics})
        except Exception as error:
            if self.opt["dist"] and isinstance(self.model, VideoBaseModel):
                raise  # the others wait for this one inside of the validation
            return error
        return None

    def _save_before(self, fault: Exception) -> NoReturn:
        try:
            self._save()
            get_root_logger().error(
                f"State of iteration {self.current_iter} saved; resume with --auto_resume once what follows is fixed."
            )
        finally:
            raise fault

    def _save(self) -> None:
        extra = getattr(self.model, "extra_state", {})
        extra["run"] = {
            "place": self.batches.place,
            "random": checkpoint.gather_random(),
            "best": plain(getattr(self.model, "best_metric_results", None)),
            "skipped": self._gathered_skipped(),
            "options": self._options,
        }
        self.model.extra_state = extra
        self.model.save(self.batches.epoch, self.current_iter)
        checkpoint.seal(self.opt, self.current_iter)
        self._sort_checkpoints(self.current_iter)

    def _sort_checkpoints(self, newest: int | str) -> None:
        checkpoint.write_best(self.opt, self._best)
        checkpoint.save_as_safetensors(self.opt, newest)
        checkpoint.prune(self.opt, self.opt["logger"].get("keep_checkpoints"))

    def _is_best(self) -> bool:
        """Find the best validation so far, on rank 0; returns whether it is that of this iteration."""
        if self._metrics:
            self._best = checkpoint.choose_best(self.opt, read_json_lines(self._metrics.path), self.current_iter)
        return self._best is not None and self._best["iter"] == self.current_iter

    def _gathered_skipped(self) -> list[str]:
        if not self.opt["dist"]:
            return sorted(self._skipped)
        everyones: list[Any] = [None] * self.opt["world_size"]
        torch.distributed.all_gather_object(everyones, sorted(self._skipped))
        return sorted(set().union(*everyones))

    def _is_due(self, block: str, key: str) -> bool:
        return self.current_iter % int(self.opt[block][key]) == 0


class StopRequest:
    """Within it, the first SIGINT or SIGTERM asks training to finish the step and save; a second one ends at once."""

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._request) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, *_: object) -> None:
        self.requested = True
        for number in self._before:
            signal.signal(number, signal.SIG_DFL)
