"""Measure this package side by side with what it is to beat, in one run, as ratios.

Usage: python tools/benchmark.py PART [--rounds N] [--json FILE]

  search   the exact non-local search against the loop of the released code
  step     a training step in the paper's setting against the released code's; switches that make it faster
  infer    a whole image in bands of rows against the plain generator, with memory
  startup  import nlcl_plugin against import basicsr
  data     what a training reads (1080p files, 480-pixel files, LMDB), and conversion to LMDB against BasicSR's
  scaling  training steps in one and in two processes, bytes that they exchange, and a model on paper of many GPUs

With NLCL_BENCHMARK_CLOCK=cpu and OMP_NUM_THREADS=1 in the environment search, step and startup count CPU seconds in
place of seconds, for a machine that has other work.

Absolute times depend on the machine and on what else it does; the two sides of a ratio alternate, and its value is the
median over rounds, with the least and the largest in brackets. Where memory counts each side runs in a process of its
own. Before they are timed, both sides must give equal results. A floor is what the arithmetic alone would take at the
rate of the same run.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import torch
from benchmarks.report import KEYS, table

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.errors import exit_code_of

PARTS = ("search", "step", "infer", "startup", "data", "scaling")  # each a module of `benchmarks`


def main(argv=None) -> int:
    return exit_code_of(lambda: _measure(argv), interrupted="nothing was written")


def _measure(argv) -> int:
    arguments = _parser().parse_args(argv)
    print(
        f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {torch.get_num_threads()} torch threads"
    )
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rows = []
        for row in arguments.measure(Path(folder), arguments):
            print(row.pop("text"), flush=True)
            rows.append(dict.fromkeys(KEYS) | row)
    print("", *table(rows), sep="\n")
    if arguments.json:
        write_whole(arguments.json, (json.dumps(rows, indent=2) + "\n").encode())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name in PARTS:
        module = importlib.import_module(f"benchmarks.{name}")
        part = parts.add_parser(name, help=module.__doc__.splitlines()[0])
        part.add_argument(
            "--json", metavar="FILE", help="also write the rows here: part, case, ratio and what is known"
        )
        part.add_argument("--folder", metavar="DIR", help="where temporary files go (default: the system's place)")
        part.add_argument("--rounds", type=int, default=module.ROUNDS, help="(default: %(default)s)")
        if hasattr(module, "add_arguments"):
            module.add_arguments(part)
        part.set_defaults(measure=module.measure)
    return parser


if __name__ == "__main__":
    sys.exit(main())
