"""Say what train (or test) would do with an option file; nothing is written."""

from __future__ import annotations

import argparse

from nlcl_plugin.commands.train import add_option_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add_option_file(parser)
    parser.add_argument("--full", action="store_true", help="rehearse with the crops of the training")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.config.option_files import find_option_file
    from nlcl_plugin.training.dry_run import check

    option_file = find_option_file(arguments.opt)
    print("\n".join(check(option_file, force_yml=arguments.force_yml, full=arguments.full)))
    return 0
