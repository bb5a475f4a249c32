"""Turn a rain dataset of any layout into a standard tree: rainy/ clean/ val_rainy/ val_clean/ and manifest.jsonl.

Usage: python tools/prepare_rain_dataset.py SOURCE... --layout NAME --output DIR
       python tools/prepare_rain_dataset.py --layout two-folders --rainy DIR --clean DIR --output DIR
       python tools/prepare_rain_dataset.py --pair-by stem --rainy DIR --clean DIR --output DIR

Files are hard links where possible: to change one changes the source; --copy makes copies. Run the same command again
after an interruption. Halves of images and frames of videos become PNG.

Exit codes: 0 done, 2 bad usage or input, 3 done but unreadable images were skipped, 5 interrupted.
"""

import argparse
import re
import sys
from dataclasses import replace
from pathlib import Path

from nlcl_plugin.data.prepare import LAYOUTS, Choices, Collection, Settings, collect, execute, inspect, make_plan
from nlcl_plugin.data.prepare.execute import check_output
from nlcl_plugin.data.prepare.model import escape
from nlcl_plugin.errors import InputError


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    try:
        return _run(arguments)
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 5


def _run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    choices = Choices(
        rainy=arguments.rainy,
        clean=arguments.clean,
        pair_by=arguments.pair_by,
        rainy_name=arguments.rainy_name,
        clean_name=arguments.clean_name,
        rainy_regex=arguments.rainy_regex,
        clean_regex=arguments.clean_regex,
        list_file=arguments.list,
        rain_side=arguments.rain_side,
        paired_val=arguments.paired_val,
    )
    collection = collect(arguments.layout, arguments.sources, choices)
    if arguments.scene:
        collection = _name_scenes(collection, arguments.scene)
    collection, facts, unreadable = inspect(collection, every=arguments.every, jobs=arguments.jobs)
    if arguments.strict and unreadable:
        raise InputError(escape(f"{unreadable[0].label}: {unreadable[0].reason}"))
    settings = Settings(
        val_fraction=arguments.val_fraction,
        val_split=arguments.val_split,
        seed=arguments.seed,
        keep_twins=arguments.keep_twins,
        near_duplicates=arguments.near_duplicates,
        leakage_bits=arguments.leakage_bits,
        allow_leakage=arguments.allow_leakage,
    )
    plan = make_plan(collection, facts, unreadable, settings)
    output = Path(arguments.output)
    if arguments.dry_run:
        check_output(plan, output)
        print("\n".join([*plan.describe(), "dry run: nothing was changed"]))
        return 3 if plan.unreadable else 0
    report = execute(plan, output, copy=arguments.copy, jobs=arguments.jobs)
    print("\n".join(plan.describe()))
    print(f"{output}: {report.linked} linked, {report.written} written, {report.kept} there already")
    print(f"look at {output / 'summary.png'}")
    return report.exit_code


def _check(arguments: argparse.Namespace) -> None:
    if arguments.layout is None:
        if arguments.pair_by is None:
            raise InputError(f"give --layout ({', '.join(LAYOUTS)}) or --pair-by")
        arguments.layout = "pairs"
    elif arguments.pair_by is not None and arguments.layout != "pairs":
        raise InputError(f"--pair-by goes without --layout {arguments.layout}, which pairs by itself; remove one")
    for name, low, high in (
        ("val_fraction", 0, 1),
        ("every", 1, None),
        ("jobs", 1, 256),
        ("near_duplicates", 0, 128),
        ("leakage_bits", 0, 128),
    ):
        value = getattr(arguments, name)
        if value is not None and not (low <= value and (high is None or value <= high)):
            wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise InputError(f"--{name.replace('_', '-')}: got {value}, expected a number {wanted}")
    output = Path(arguments.output).resolve()
    for source in (*arguments.sources, arguments.rainy, arguments.clean):
        # Or the next run would find the output among its images.
        if source and (output.is_relative_to(Path(source).resolve()) or Path(source).resolve().is_relative_to(output)):
            raise InputError(f"--output {arguments.output}: overlaps with {source}; choose a folder outside")


def _name_scenes(collection: Collection, expression: str) -> Collection:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise InputError(f"--scene: {expression!r} is no regular expression ({error}); correct it") from error

    def scene(source) -> str:
        found = compiled.search(source.name)
        if not found:
            raise InputError(f"--scene: {expression!r} finds nothing in {escape(source.name)!r}; correct it")
        return "/".join(group or "" for group in found.groups()) or found[0]

    # A pair is one scene, that of its clean image.
    return replace(collection, shots=[replace(s, scene=scene(s.twin or s.source)) for s in collection.shots])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="folder of the dataset")
    add("--layout", choices=list(LAYOUTS), help="how the dataset is laid out")
    add("--output", required=True, metavar="DIR", help="folder to make")
    add("--rainy", metavar="DIR", help="rainy images or videos")
    add("--clean", metavar="DIR", help="clean images or videos")
    add("--pair-by", choices=("stem", "affix", "regex", "list", "order"), help="how --rainy and --clean pair")
    add("--rainy-name", default="{}", metavar="FORM", help="affix: rainy names without ending, such as {}_rain")
    add("--clean-name", default="{}", metavar="FORM", help="affix: clean names without ending, such as {}_clean")
    add("--rainy-regex", metavar="REGEX", help="regex: its groups are what pairs share")
    add("--clean-regex", metavar="REGEX", help="regex: for clean paths (default: the same)")
    add("--list", metavar="FILE", help="list, SPA-Data: 'rainy_path clean_path' on each line")
    add("--rain-side", choices=("left", "right"), help="side-by-side: which half is rainy")
    add("--paired-val", action="store_true", help="trainA/trainB: valA and valB are pairs of equal names")
    add("--scene", metavar="REGEX", help="its groups, or all it finds in a path, name the scene")
    add("--val-fraction", type=float, metavar="X", help="share of scenes (default: own split, or 0.1 of pairs)")
    add("--val-split", choices=("val", "test"), help="which of the dataset's own splits is for validation")
    add("--seed", type=int, default=0, help="seed of the split (default: %(default)s)")
    add("--keep-twins", action="store_true", help="train on both images of a pair")
    add(
        "--near-duplicates",
        type=int,
        metavar="BITS",
        help="drop images this near to another, of 128 (default: frames, 6)",
    )
    add(
        "--leakage-bits", type=int, default=4, metavar="BITS", help="how near is the same (default: %(default)s of 128)"
    )
    add("--allow-leakage", action="store_true", help="go on when training and validation share images")
    add("--every", type=int, default=15, metavar="N", help="videos: the sharpest of every N frames (default: 15)")
    add("--copy", action="store_true", help="copy files instead of linking them")
    add("--strict", action="store_true", help="an unreadable image ends the run")
    add("--dry-run", action="store_true", help="print the plan and change nothing")
    add("--jobs", type=int, default=2, metavar="N", help="threads (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
