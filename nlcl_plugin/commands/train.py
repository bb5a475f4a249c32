"""Train a model; its output goes to experiments/ and tb_logger/ in the current folder.

The first Ctrl-C (or SIGTERM) finishes the iteration and saves the training state; the same command with --auto_resume
continues from it.
"""

from __future__ import annotations

import argparse
import logging
import signal

# Between the first iteration and the last an interruption asks for a checkpoint instead.
INTERRUPTED = "run the same command again with --auto_resume"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_option_file(parser)
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
    parser.add_argument("--auto_resume", action="store_true", help="continue from the newest training state")
    parser.add_argument("--debug", action="store_true", help="short intervals and no TensorBoard")
    # torch.distributed.launch puts it before the command; others may put it behind.
    parser.add_argument("--local_rank", "--local-rank", default=argparse.SUPPRESS, type=int, help=argparse.SUPPRESS)


def add_option_file(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that give the options."""
    text = "option file (YAML): a path, or the name of one of the package (see `basicsr options`)"
    parser.add_argument("-opt", "--opt", required=True, metavar="FILE", help=text)
    text = "set options, such as train:total_iter=1000 path:resume_state=~"
    parser.add_argument("--force_yml", nargs="+", metavar="BLOCK:KEY=VALUE", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.config.option_files import find_option_file
    from nlcl_plugin.training.run import run as run_training

    logging.raiseExceptions = False  # a log file on a full disk: the checkpoint's error mentions it, in one line
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # is then what Ctrl-C is
    code, _ = run_training(
        find_option_file(arguments.opt),
        is_train=arguments.command == "train",
        launcher=arguments.launcher,
        auto_resume=arguments.auto_resume,
        debug=arguments.debug,
        force_yml=arguments.force_yml,
        local_rank=arguments.local_rank,
    )
    return code
