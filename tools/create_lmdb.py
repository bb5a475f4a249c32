"""Make an LMDB in BasicSR's layout of all images below a folder, whole or cut into sub-images.

Usage: python tools/create_lmdb.py --input DIR --output X.lmdb [--crop 480 --step 240]

A PNG that needs no cut and no turn goes in byte for byte, with its alpha, which readers drop. All else becomes PNG
without loss: grey and 16-bit stay so, floats become 16-bit, alpha is dropped, EXIF orientation is applied.
X.lmdb/keys.jsonl says of which file and part each key is. Run the same command again after an interruption.

Exit codes: 0 done, 2 bad usage or input, 3 done but unreadable images were skipped, 5 interrupted.
"""

import argparse
import sys

from nlcl_plugin.data.lmdb.create import BuildReport, create_lmdb
from nlcl_plugin.data.lmdb.encode import Cut
from nlcl_plugin.errors import InputError, escape, exit_code_of


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    report = create_lmdb(
        arguments.input,
        arguments.output,
        cut=_check(arguments),
        jobs=arguments.jobs,
        strict=arguments.strict,
        overwrite=arguments.overwrite,
        log=lambda line: print(escape(line)),
    )
    print("\n".join(escape(line) for line in _describe(report, arguments.output)))
    return report.exit_code


def _describe(report: BuildReport, output: str) -> list[str]:
    pictures = f"{report.images} images" + (f", {report.values} sub-images" if report.values != report.images else "")
    lines = [f"{output}: {pictures}, {report.bytes / 1e6:.1f} MB{'; already made' if report.already_made else ''}"]
    lines += [f"{len(report.skipped)} could not be read and were skipped:"] if report.skipped else []
    return lines + [f"  {one.source}: {one.reason}" for one in report.skipped]


def _check(arguments: argparse.Namespace) -> Cut | None:
    for name, low, high in (("crop", 1, 65535), ("step", 1, 65535), ("threshold", 0, 65535), ("jobs", 1, 256)):
        value = getattr(arguments, name)
        if value is not None and not low <= value <= high:
            raise InputError(f"--{name}: got {value}, expected a number from {low} to {high}")
    if arguments.crop is None:
        if arguments.step is not None or arguments.threshold is not None:
            raise InputError("--step and --threshold say how to cut; give --crop too, or remove them")
        return None
    return Cut(arguments.crop, arguments.step or max(1, arguments.crop // 2), arguments.threshold or 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", required=True, metavar="DIR", help="folder of images, searched to its depth")
    add("--output", required=True, metavar="X.lmdb", help="LMDB to make")
    add("--crop", type=int, metavar="N", help="cut into squares of this side (BasicSR: 480)")
    add("--step", type=int, metavar="N", help="from one square to the next (default: half of --crop)")
    add("--threshold", type=int, metavar="N", help="what may be left over at the edges (default: 0)")
    add("--jobs", type=int, default=2, metavar="N", help="threads (default: %(default)s)")
    add("--strict", action="store_true", help="an unreadable image ends the run")
    add("--overwrite", action="store_true", help="replace an LMDB that is there, when the new one is whole")
    return parser


if __name__ == "__main__":
    sys.exit(main())
