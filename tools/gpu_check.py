"""See whether everything works on the GPU of this machine, and how fast: one command, one report to send.

Usage: python tools/gpu_check.py [--quick] [--part NAME ...] [--device cuda|cpu] [--output DIR]

Writes gpu_check.md and gpu_check.json, again after each part, and takes at most 9 minutes (--quick: about 2). Parts for
which no time is left are in the report as "not run: time". Without a GPU everything runs at tiny sizes on the CPU,
which tests this tool. docs/gpu.md says what each row means.

Exit codes: 0 no check failed, 1 one did, 2 bad usage or a disk that is full, 5 interrupted.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import torch
from gpu import report, runner
from gpu.rows import FAIL

from nlcl_plugin.errors import InputError, exit_code_of

# Seconds that each part may take at most; what cannot be seen elsewhere comes first.
PARTS = {"environment": 30, "equal": 90, "multi": 100, "resume": 60, "options": 120, "search": 30, "infer": 40,
         "loader": 40, "step": 150}  # fmt: skip
BUDGET, QUICK = 540 - runner.GRACE - 5, 120 - 15  # seconds; a part that hangs takes its grace


def main(argv=None) -> int:
    return exit_code_of(lambda: _check(argv), interrupted="the reports have the parts that were over")


def _check(argv) -> int:
    arguments = _parser().parse_args(argv)
    if arguments.child:
        runner.child(arguments.child)
        return 0
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU; see nvidia-smi and torch.version.cuda, or use cpu")
    start, rows = time.time(), []
    parts = {part: seconds for part, seconds in PARTS.items() if part in (arguments.part or PARTS)}
    with tempfile.TemporaryDirectory(prefix="gpu_check_") as folder:
        found = runner.run(
            parts,
            arguments.device,
            quick=arguments.quick,
            folder=Path(folder),
            deadline=start + (QUICK if arguments.quick else BUDGET),
            apart=arguments.device != "cpu",
        )
        for part, of_part in found:
            rows += of_part
            print(*map(report.line, of_part), sep="\n", flush=True)
            about = {"device": arguments.device, "seconds": round(time.time() - start), "last part": part}
            report.write(arguments.output, rows, about)
    failed = [row for row in rows if row["result"] == FAIL]
    print(f"{len(rows)} rows, {len(failed)} failed, {time.time() - start:.0f} s: {arguments.output / 'gpu_check.md'}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--quick", action="store_true", help="fewer cases and rounds, about 2 minutes")
    add("--part", action="append", choices=PARTS, help="only this part; may be given several times")
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cuda", "cpu"), default=gpu, help="(default: %(default)s)")
    add("--output", type=Path, default=Path("gpu_check"), metavar="DIR", help="(default: %(default)s)")
    add("--child", help=argparse.SUPPRESS)  # one part, for `runner.rows_apart`
    return parser


if __name__ == "__main__":
    sys.exit(main())
