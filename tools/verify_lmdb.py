"""Check an LMDB in BasicSR's layout: counts, every image, sizes and hashes; with --against, also the pictures.

Usage: python tools/verify_lmdb.py X.lmdb [--against DIR]

Nothing is changed. Hashes and sources are known of LMDBs that tools/create_lmdb.py made.

Exit codes: 0 all is well, 2 faults, bad usage or input, 5 interrupted.
"""

import argparse
import sys

from nlcl_plugin.data.lmdb.verify import Verification, verify_lmdb
from nlcl_plugin.errors import InputError, escape, exit_code_of

FAULTS_SHOWN = 20


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(arguments), interrupted="nothing was changed")


def _run(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.jobs <= 256:
        raise InputError(f"--jobs: got {arguments.jobs}, expected a number from 1 to 256")
    found = verify_lmdb(arguments.lmdb, against=arguments.against, jobs=arguments.jobs)
    print("\n".join(escape(line) for line in _describe(found, arguments)))
    return 2 if found.faults else 0


def _describe(found: Verification, arguments: argparse.Namespace) -> list[str]:
    lines = [f"  {fault}" for fault in found.faults[:FAULTS_SHOWN]]
    if len(found.faults) > FAULTS_SHOWN:
        lines.append(f"  and {len(found.faults) - FAULTS_SHOWN} more")
    done = f"{found.values} images decoded, {found.hashed} hashes compared"
    if arguments.against is not None:
        done += f", {found.compared} compared with {arguments.against}"
    result = "1 fault" if len(found.faults) == 1 else f"{len(found.faults) or 'no'} faults"
    return [f"{arguments.lmdb}: {result}{':' if lines else ''}", *lines, done]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("lmdb", metavar="X.lmdb", help="LMDB to check")
    add("--against", metavar="DIR", help="folder of the images that it is made of")
    add("--jobs", type=int, default=2, metavar="N", help="threads (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
