"""The `basicsr` command: `basicsr train -opt X.yml`, `basicsr derain INPUT --output DIR`, and the others."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib.metadata import version

import shtab

from nlcl_plugin.commands import bank, check, convert, demo, derain, export, lmdb, options, prepare, report, test, train
from nlcl_plugin.errors import InputError, exit_code_of, print_line
from nlcl_plugin.version import __version__

EXIT_CODES = """exit codes:
  0  done
  1  a fault of this software (with a traceback)
  2  bad usage, option or input
  3  done, but some files were skipped
  4  training stopped itself (NaN, collapse)
  5  interrupted, state saved
"""
COMMANDS = (train, test, check, options, derain, demo, report, prepare, lmdb, bank, export, convert)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with these arguments, by default `sys.argv[1:]`; returns the exit code."""
    return exit_code_of(lambda: _main(argv))  # the parser itself prints, too, to a reader that may have gone


def _main(argv: Sequence[str] | None) -> int:
    arguments, unknown = build_parser().parse_known_args(argv)
    if unknown:
        arguments.parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    again = getattr(arguments.module, "INTERRUPTED", "run the same command again to continue")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        run = _run if getattr(arguments, "launcher", "none") == "none" else _run_recorded
        return exit_code_of(lambda: run(arguments), interrupted=again)


def _run_recorded(arguments: argparse.Namespace) -> int:
    from torch.distributed.elastic.multiprocessing.errors import record

    # torchrun's last words are then the error of the process that failed first.
    return record(_run)(arguments) or 0


def _run(arguments: argparse.Namespace) -> int:
    for name in arguments.imports:
        import_module(name)
    code: int = arguments.module.run(arguments)
    return code


def import_module(name: str) -> None:
    """Import a module of the user's, from the current folder or the environment, so that what it registers is known.

    Raises:
        InputError: If there is no module of this name, or its own code raises an error.
    """
    if name.endswith(".py") or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"--import {name}: expected the name of a module, such as archs.mine, not its file")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # which `python -m` has there, and a script does not
    try:
        importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"--import {name}: there is no module {error.name!r} in {os.getcwd()} or the environment; start the "
                "command in the folder that contains it, or correct the name"
            ) from error
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise InputError(f"--import {name}: {_place_of(error)}{type(error).__name__}: {reason}") from error


def _place_of(error: Exception) -> str:
    """The file and line of the user's code that an error of an import comes from."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.relpath(error.filename)}, line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)[1:]
    own = [one for one in frames if "importlib" not in one.filename and "site-packages" not in one.filename]
    return f"{os.path.relpath(own[-1].filename)}, line {own[-1].lineno}: " if own else ""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; the arguments of each are in its module, `nlcl_plugin/commands/NAME.py`."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="basicsr",
        description="Train and test image restoration models from option files, BasicSR's and nlcl_plugin's; remove "
        "rain from photographs; prepare data.",
        epilog=EXIT_CODES,
        formatter_class=raw,
    )
    shown = f"nlcl_plugin {__version__} (BasicSR {version('basicsr')})"
    parser.add_argument("--version", action="version", version=shown)
    shtab.add_argument_to(parser, help="print a script that completes commands at a shell's prompt (docs/train.md)")
    parser.add_argument("--local_rank", "--local-rank", default=None, type=int, help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        description = module.__doc__ or ""
        summary = description.split("\n", 1)[0].rstrip(".:")
        command = commands.add_parser(name, help=summary, description=description, formatter_class=raw)
        text = "import a module of yours, which registers architectures, models, datasets or losses; repeatable"
        for one in module.add_arguments(command) or [command]:
            one.set_defaults(module=module, parser=one)
            one.add_argument("--import", action="append", default=[], dest="imports", metavar="MODULE", help=text)
    return parser


def _show_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    if issubclass(category, UserWarning):
        print_line(f"warning: {message}")


if __name__ == "__main__":
    sys.exit(main())
