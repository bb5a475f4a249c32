"""Make and check LMDBs of images, in BasicSR's layout.

Usage: basicsr lmdb create --input DIR --output X.lmdb [--crop 480 --step 240]
       basicsr lmdb verify X.lmdb [--against DIR]
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nlcl_plugin.commands.numbers import number
from nlcl_plugin.errors import InputError, counted, escape, size_of

if TYPE_CHECKING:
    from nlcl_plugin.data.lmdb.encode import Cut

CREATE = """Make an LMDB in BasicSR's layout of all images below a folder, whole or cut into sub-images.

A PNG that needs no cut and has no EXIF is stored byte for byte, with its alpha, which readers drop. All else becomes
PNG without loss: grey and 16-bit stay so, floats become 16-bit, alpha is dropped, EXIF orientation is applied.
X.lmdb/keys.jsonl says of which file and part each key is. Run the same command again after an interruption.

Exit codes: 0 done, 2 bad usage or input, 3 done but unreadable images were skipped, 5 interrupted.
"""
VERIFY = """Check an LMDB in BasicSR's layout: counts, every image, sizes and hashes; with --against, also the pictures.

Nothing is changed. Hashes and sources are known only for LMDBs made by `basicsr lmdb create`.

Exit codes: 0 all is well, 2 faults, bad usage or input, 5 interrupted.
"""
INTERRUPTED = "run the same command again"  # create continues, verify begins anew
FAULTS_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Add the arguments of this command; returns the parsers of its actions."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="{create,verify}")
    raw = argparse.RawDescriptionHelpFormatter
    create = actions.add_parser("create", help="make one of a folder", description=CREATE, formatter_class=raw)
    add = create.add_argument
    add("--input", required=True, metavar="DIR", help="folder of images, searched recursively")
    add("--output", required=True, metavar="X.lmdb", help="LMDB to make")
    add("--crop", type=number(1, 65535), metavar="N", help="cut into squares of this side (BasicSR: 480)")
    add("--step", type=number(1, 65535), metavar="N", help="from one square to the next (default: half of --crop)")
    add("--threshold", type=number(0, 65535), metavar="N", help="pixels to leave uncovered at most (default: 0)")
    add("--jobs", type=number(1, 256), default=2, metavar="N", help="threads (default: %(default)s)")
    add("--strict", action="store_true", help="an unreadable image ends the run")
    add("--overwrite", action="store_true", help="replace an existing LMDB once the new one is complete")
    verify = actions.add_parser("verify", help="check one", description=VERIFY, formatter_class=raw)
    add = verify.add_argument
    add("lmdb", metavar="X.lmdb", help="LMDB to check")
    add("--against", metavar="DIR", help="folder of the images that it is made of")
    add("--jobs", type=number(1, 256), default=2, metavar="N", help="threads (default: %(default)s)")
    return [create, verify]


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    return _create(arguments) if arguments.action == "create" else _verify(arguments)


def _create(arguments: argparse.Namespace) -> int:
    from nlcl_plugin.data.lmdb.create import create_lmdb

    report = create_lmdb(
        arguments.input,
        arguments.output,
        cut=_cut(arguments),
        jobs=arguments.jobs,
        strict=arguments.strict,
        overwrite=arguments.overwrite,
    )
    parts = f", {counted(report.values, 'sub-image')}" if report.values != report.images else ""
    made = "; already made" if report.already_made else ""
    lines = [f"{arguments.output}: {counted(report.images, 'image')}{parts}, {size_of(report.bytes)}{made}"]
    lines += [f"skipped {counted(len(report.skipped), 'file')} that could not be read:"] if report.skipped else []
    lines += [f"  {one.source}: {one.reason}" for one in report.skipped]
    print("\n".join(map(escape, lines)))
    return 3 if report.skipped else 0


def _cut(arguments: argparse.Namespace) -> Cut | None:
    from nlcl_plugin.data.lmdb.encode import Cut

    if arguments.crop is None:
        if arguments.step is not None or arguments.threshold is not None:
            raise InputError("--step and --threshold say how to cut; give --crop too, or remove them")
        return None
    return Cut(arguments.crop, arguments.step or max(1, arguments.crop // 2), arguments.threshold or 0)


def _verify(arguments: argparse.Namespace) -> int:
    from nlcl_plugin.data.lmdb.verify import verify_lmdb

    found = verify_lmdb(arguments.lmdb, against=arguments.against, jobs=arguments.jobs)
    lines = [f"  {fault}" for fault in found.faults[:FAULTS_SHOWN]]
    if len(found.faults) > FAULTS_SHOWN:
        lines.append(f"  and {len(found.faults) - FAULTS_SHOWN} more")
    done = f"{counted(found.values, 'image')} decoded, {counted(found.hashed, 'SHA-256 sum')} compared"
    if arguments.against is not None:
        done += f", {found.compared} compared with {arguments.against}"
    result = "1 fault" if len(found.faults) == 1 else f"{len(found.faults) or 'no'} faults"
    print("\n".join(map(escape, [f"{arguments.lmdb}: {result}{':' if lines else ''}", *lines, done])))
    return 2 if found.faults else 0
