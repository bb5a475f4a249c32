"""The `basicsr` command: `basicsr train -opt X.yml`, `basicsr test -opt X.yml`, `basicsr check -opt X.yml`."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from nlcl_plugin.errors import TrainingStoppedError, exit_code_of, print_line
from nlcl_plugin.version import __version__

EXIT_CODES = """exit codes:
  0  done
  1  a fault of this software (with a traceback)
  2  bad usage, option or input
  3  done, but some files were skipped
  4  training stopped itself (NaN, collapse)
  5  interrupted, state saved
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    warnings.showwarning = _show_warning
    logging.raiseExceptions = False  # a log file on a full disk: the checkpoint's error mentions it, in one line
    run = _run if arguments.launcher == "none" else _run_recorded
    # Between the first iteration and the last an interruption asks for a checkpoint instead.
    again = "run the same command again, a training with --auto_resume"
    return exit_code_of(lambda: run(arguments), interrupted=again)


def _run_recorded(arguments: argparse.Namespace) -> int:
    from torch.distributed.elastic.multiprocessing.errors import record

    # torchrun's last words are then the error of the process that failed first.
    return record(_run)(arguments) or 0


def _run(arguments: argparse.Namespace) -> int:
    # Imported late, so that --help and usage errors don't wait for them.
    from nlcl_plugin.training.distributed import leave_process_group, only_run
    from nlcl_plugin.training.dry_run import check
    from nlcl_plugin.training.launch import start
    from nlcl_plugin.training.testing import test
    from nlcl_plugin.training.train import train

    if arguments.command == "check":
        print("\n".join(check(arguments.opt, force_yml=arguments.force_yml, full=arguments.full)))
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # is then what Ctrl-C is
    is_train = arguments.command == "train"
    options = start(
        arguments.opt,
        is_train=is_train,
        launcher=arguments.launcher,
        auto_resume=arguments.auto_resume,
        debug=arguments.debug,
        force_yml=arguments.force_yml,
        local_rank=arguments.local_rank,
    )
    with only_run(options["path"]["experiments_root" if is_train else "results_root"]):
        try:
            code = train(options, arguments.opt) if is_train else test(options)
        except TrainingStoppedError:  # which all processes raise
            leave_process_group(4)
            raise
        return leave_process_group(code)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="basicsr",
        description="Train and test image restoration models from option files: BasicSR's and nlcl_plugin's.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shown = f"nlcl_plugin {__version__} (BasicSR {version('basicsr')})"
    parser.add_argument("--version", action="version", version=shown)
    local_rank: dict[str, Any] = {"type": int, "help": argparse.SUPPRESS}
    # torch.distributed.launch puts it before the command; others may put it behind.
    parser.add_argument("--local_rank", "--local-rank", default=None, **local_rank)
    commands = parser.add_subparsers(dest="command", required=True, metavar="{train,test,check}")
    for name, text in (
        ("train", "train a model; output goes to experiments/ and tb_logger/ in the current folder"),
        ("test", "run a trained model on images; output goes to results/ in the current folder"),
        ("check", "say what train (or test) would do with an option file; nothing is written"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("-opt", "--opt", required=True, metavar="FILE", help="option file (YAML)")
        text = "set options, such as train:total_iter=1000 path:resume_state=~"
        command.add_argument("--force_yml", nargs="+", metavar="BLOCK:KEY=VALUE", help=text)
        if name == "check":  # runs in this process alone
            command.set_defaults(launcher="none")
            command.add_argument("--full", action="store_true", help="rehearse with the crops of the training")
            continue
        command.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none", help="job launcher")
        command.add_argument("--auto_resume", action="store_true", help="continue from the newest training state")
        command.add_argument("--debug", action="store_true", help="short intervals and no TensorBoard")
        command.add_argument("--local_rank", "--local-rank", default=argparse.SUPPRESS, **local_rank)
    return parser


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        print_line(f"warning: {message}")


if __name__ == "__main__":
    sys.exit(main())
