"""Write one self-contained HTML page about a training.

Usage: basicsr report EXPERIMENT

EXPERIMENT is the folder of a training, such as experiments/nlcl_quickstart; it may be running or interrupted. The page
has curves of all losses, metrics and learning rates, validation images before and after with their layers, non-local
neighbours, figures, options, environment and the command to reproduce it. Open it in any browser.

Exit codes: 0 done, 2 bad usage or input, 5 interrupted.
"""

from __future__ import annotations

import argparse

from nlcl_plugin.commands.numbers import number
from nlcl_plugin.errors import escape, size_of


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.report import write_report

    page = write_report(arguments.experiment, arguments.output, images=arguments.images, which=arguments.checkpoint)
    print(escape(f"{page}: {size_of(page.stat().st_size)}"))
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("experiment", metavar="EXPERIMENT", help="folder of a training")
    add("--output", metavar="FILE.html", help="the page (default: EXPERIMENT/report.html)")
    add(
        "--images",
        type=number(0),
        default=3,
        metavar="N",
        help="images of each validation set; 0 for none (default: 3)",
    )
    text = "weights that derain them (default: the best in validation, else the newest)"
    add("--checkpoint", metavar="ITER|latest", help=text)
