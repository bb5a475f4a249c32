"""Measure this package side by side with what it is to beat, in one run, as ratios.

Usage: python tools/benchmark.py data|scaling [--json FILE]

  data     what a training reads (1080p files, 480-pixel files, LMDB), and conversion to LMDB against BasicSR's
  scaling  training steps in one and in two processes, bytes that they exchange, and a model on paper of many GPUs

Absolute times depend on the machine and on what else it does; the two sides of a ratio alternate, and its value is the
median over rounds.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import torch
from benchmarks import data, scaling


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    print(
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} torch threads"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = []
        for row in arguments.measure(Path(folder), arguments):
            rows.append(row)
            print(row.pop("text"), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, module in (("data", data), ("scaling", scaling)):
        part = parts.add_parser(name, help=module.__doc__.splitlines()[0])
        part.add_argument(
            "--json", metavar="FILE", help="also write the rows here: part, case, ratio and what is known"
        )
        part.add_argument("--folder", metavar="DIR", help="where temporary files go (default: the system's place)")
        part.add_argument("--rounds", type=int, default=module.ROUNDS, help="(default: %(default)s)")
        part.set_defaults(measure=module.measure)
    return parser


if __name__ == "__main__":
    sys.exit(main())
