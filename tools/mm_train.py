"""Train with MMEngine's Runner.

Usage: python tools/mm_train.py options/mmengine/nlcl_rain.py [--resume] [--cfg-options KEY=VALUE ...]
       torchrun --nproc_per_node=N tools/mm_train.py CONFIG --launcher pytorch

Output goes to work_dirs/CONFIG_NAME in the current folder, or to --work-dir. --cfg-options takes dotted keys, such as
train_cfg.max_iters=1000 train_dataloader.dataset.opt.dataroot_lq=FOLDER. A config is a Python program.

Exit codes: 0 done, 1 a fault of this software, 2 bad usage, option or input, 4 training stopped itself (NaN, collapse),
5 interrupted, state saved.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError

from nlcl_plugin.errors import InputError, TrainingStoppedError

# What MMEngine raises before the training begins, when it builds things one by one and finds no name, argument or file.
FAULTS_OF_CONFIGS = (TypeError, ValueError, KeyError, AttributeError, AssertionError, OSError, RuntimeError,
                     UnpicklingError)  # fmt: skip


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return _train(arguments)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except TrainingStoppedError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 4
    except KeyboardInterrupt:  # before the first iteration or after the last
        print("interrupted; run the same command again, with --resume", file=sys.stderr)
        return 5


def _train(arguments: argparse.Namespace) -> int:
    # Imported late, so that --help and usage errors don't wait for them.
    from nlcl_plugin.data.folder_lock import locked
    from nlcl_plugin.errors import rank_in_environment

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # is then what Ctrl-C is
    cfg = _config(arguments)
    _prepare_processes(cfg)
    with locked(cfg.work_dir, inside=True) if rank_in_environment() == "0" else nullcontext():
        return _run(cfg, arguments.config)


def _run(cfg, config: str) -> int:
    from mmengine.runner import Runner

    from nlcl_plugin.mm.hooks import StopOnSignalHook
    from nlcl_plugin.training.loaders import faults_of_workers

    # The restorer's schedule counts from the start of the training, its optimizer steps from stage 2.
    warnings.filterwarnings("ignore", message="Detected call of `scheduler.step")
    stop = StopOnSignalHook()
    try:
        runner = Runner.from_cfg(cfg)
        runner.register_hook(stop)
        with faults_of_workers():
            runner.train()
    except KeyboardInterrupt:
        if not stop.interrupted:
            raise
    except TrainingStoppedError:  # which all processes raise
        _leave_process_group()
        raise
    except FAULTS_OF_CONFIGS as error:
        if stop.began or isinstance(error, InputError):
            raise
        raise InputError(f"{config}: {_reason(error)}") from error
    finally:
        stop.after_train()
    _leave_process_group()
    return 5 if stop.interrupted else 0


def _prepare_processes(cfg) -> None:
    """Join the process group over gloo where there is no GPU, as MMEngine's launcher and wrapper ask for one."""
    import torch

    from nlcl_plugin.training.distributed import check_launcher

    check_launcher(cfg.get("launcher", "none"))
    if cfg.get("launcher", "none") != "pytorch":
        return
    if "RANK" not in os.environ:
        raise InputError(
            "--launcher pytorch: RANK is not set; start with `torchrun --nproc_per_node=N tools/mm_train.py`"
        )
    wrapper = dict(cfg.get("model_wrapper_cfg") or {})
    if cfg.get("model", {}).get("type") == "NLCLDerain":
        wrapper.setdefault("type", "MMSeparateDistributedDataParallel")  # no other runs with several optimizers
    if not torch.cuda.is_available():
        wrapper["device_ids"] = None
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
    if wrapper:
        cfg.model_wrapper_cfg = wrapper


def _leave_process_group() -> None:
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def _reason(error: Exception) -> str:
    if isinstance(error, UnpicklingError):  # torch's own advice is to run whatever code the file holds
        return ("the checkpoint is damaged, or not one of MMEngine; continue from another one with "
                "--resume --cfg-options load_from=FILE")  # fmt: skip
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def _config(arguments: argparse.Namespace):
    from mmengine.config import Config

    if not os.path.isfile(arguments.config):
        raise InputError(f"{arguments.config}: no such file; expected a config, such as options/mmengine/nlcl_rain.py")
    try:
        cfg = Config.fromfile(arguments.config)
    except Exception as error:  # a config is a program, and what it raises is for its author
        raise InputError(f"{arguments.config}: {type(error).__name__}: {error}") from error
    cfg.merge_from_dict(_overrides(arguments.cfg_options))
    cfg.launcher = arguments.launcher
    cfg.work_dir = arguments.work_dir or cfg.get("work_dir") or f"work_dirs/{Path(arguments.config).stem}"
    cfg.resume = arguments.resume or cfg.get("resume", False)
    if arguments.seed is not None:
        cfg.merge_from_dict(
            {
                "randomness.seed": arguments.seed,
                "model.seed": arguments.seed,
                "train_dataloader.dataset.opt.seed": arguments.seed,
            }
        )
    return cfg


def _overrides(items: list[str]) -> dict:
    from mmengine.config import DictAction

    for item in items:
        if "=" not in item:
            raise InputError(f"--cfg-options: expected KEY=VALUE, but received {item!r}")
    values = argparse.Namespace(cfg_options=None)
    DictAction([], "cfg_options")(argparse.ArgumentParser(), values, items)
    return values.cfg_options or {}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("config", help="config file of MMEngine")
    add("--work-dir", metavar="DIR", help="where logs, checkpoints and pictures go")
    add("--resume", action="store_true", help="go on from the last checkpoint of the work folder")
    add("--seed", type=int, help="the seed of everything, in the place of the config's")
    add("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none", help="job launcher")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="set options of the config")
    add("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
