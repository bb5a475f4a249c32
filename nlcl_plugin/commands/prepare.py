"""Turn a rain dataset of any layout into a standard tree: rainy/ clean/ val_rainy/ val_clean/ and manifest.jsonl.

Usage: basicsr prepare SOURCE... --layout NAME --output DIR
       basicsr prepare --layout two-folders --rainy DIR --clean DIR [--val-rainy DIR --val-clean DIR] --output DIR
       basicsr prepare --pair-by stem --rainy DIR --clean DIR --output DIR
       basicsr prepare VIDEO... --layout static-video --output DIR

Files are hard links where possible, so that changing one changes the source; --copy makes copies. Run the same command
again after an interruption: existing files are kept. Halves of images and frames of videos become PNG.

A video of a still scene, with the camera on a tripod or in a calm hand, gives pairs for validation (val_rainy/,
val_clean/) and a bank of real rain layers (rain/, for dataroot_rain of PseudoPairDataset): of every N frames (--every)
the first, and the median of those around it. This layout starts over when it is run again, and names what it cannot use
(exit code 3).

Exit codes: 0 done, 2 bad usage or input, 3 done but unreadable images were skipped, 5 interrupted.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nlcl_plugin.commands.numbers import number
from nlcl_plugin.errors import InputError, counted, escape

if TYPE_CHECKING:
    from nlcl_plugin.prepare.model import Collection, SourceImage

STATIC_VIDEO = "static-video"
# Those of nlcl_plugin.prepare.LAYOUTS, whose import takes longer than --help may.
LAYOUT_NAMES = (
    *("two-folders", "SPA-Data", "RealRain-1k", "GT-RAIN", "LHP-Rain", "Rain100/200", "DDN/Rain1400", "Outdoor-Rain"),
    *("side-by-side", "trainA/trainB", "pairs"),
)
_ONLY_FOR = {
    "rainy_name": ["pairs"],
    "clean_name": ["pairs"],
    "rainy_regex": ["pairs"],
    "clean_regex": ["pairs"],
    "list": ["pairs", "SPA-Data"],
    "rain_side": ["side-by-side"],
    "paired_val": ["trainA/trainB"],
    "val_rainy": ["two-folders"],
    "val_clean": ["two-folders"],
}


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.prepare import Options, collect, execute, inspect, make_plan
    from nlcl_plugin.prepare.execute import SUMMARY, check_output_folder

    _check(arguments)
    if arguments.layout == STATIC_VIDEO:
        return _static_video(arguments)
    given = {name: value for name, value in vars(arguments).items() if value is not None}
    names = {field.name for field in fields(Options)} & given.keys()
    options = Options(**{name: given[name] for name in names}, list_file=arguments.list)
    collection = collect(arguments.layout, arguments.sources, options)
    if arguments.scene:
        collection = _name_scenes(collection, arguments.scene)
    output = Path(os.path.expanduser(arguments.output))
    check_output_folder(output)
    collection, facts, unreadable = inspect(
        collection, every=arguments.every, jobs=arguments.jobs, strict=arguments.strict
    )
    plan = make_plan(collection, facts, unreadable, options)
    if arguments.strict and plan.twins:
        raise InputError(plan.notes[-1])
    if arguments.dry_run:
        check_output_folder(output, plan)
        print("\n".join([*plan.describe(), "dry run: nothing was changed"]))
        return 3 if plan.unreadable else 0
    counts = execute(plan, output, copy=arguments.copy, jobs=arguments.jobs)
    print("\n".join(plan.describe()))
    print(escape(f"{output}: {counts['linked']} linked, {counts['written']} written, {counts['kept']} already there"))
    print(escape(f"look at {output / SUMMARY}"))
    return 3 if plan.unreadable else 0


def _static_video(arguments: argparse.Namespace) -> int:
    from nlcl_plugin.prepare.execute import SUMMARY
    from nlcl_plugin.prepare.static_video import make_static_pairs

    parser = argparse.ArgumentParser()
    add_arguments(parser)
    for name in vars(parser.parse_args(["--output", "DIR"])):
        differs = getattr(arguments, name) != parser.get_default(name)
        if differs and name not in ("sources", "layout", "output", "every"):
            raise InputError(f"--{name.replace('_', '-')}: is not for --layout {STATIC_VIDEO}; remove it")
    if not arguments.sources:
        raise InputError(f"layout {STATIC_VIDEO}: received no video; give one or more")
    pairs, left_out = make_static_pairs(arguments.sources, arguments.output, every=arguments.every)
    print(escape(f"{arguments.output}: {counted(pairs, 'pair')} in val_rainy and val_clean, with layers in rain"))
    if left_out:
        print(escape(f"skipped ({len(left_out)}): {'; '.join(left_out[:3])}"))
    print(escape(f"look at {Path(arguments.output) / SUMMARY}"))
    return 3 if left_out else 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.layout is None:
        if arguments.pair_by is None:
            raise InputError(f"give --layout ({', '.join((*LAYOUT_NAMES, STATIC_VIDEO))}) or --pair-by")
        arguments.layout = "pairs"
    elif arguments.pair_by is not None and arguments.layout != "pairs":
        raise InputError(f"--pair-by: --layout {arguments.layout} has a rule of its own; remove one")
    for name, layouts in _ONLY_FOR.items():
        if getattr(arguments, name) not in (None, False) and arguments.layout not in layouts:
            raise InputError(f"--{name.replace('_', '-')}: is for {' and '.join(layouts)} only; remove it")
    output = Path(os.path.realpath(os.path.expanduser(arguments.output)))
    folders = (arguments.rainy, arguments.clean, arguments.val_rainy, arguments.val_clean)
    for source in filter(None, (*arguments.sources, *folders)):
        # Or the next run would find the output among its images.
        place = Path(os.path.realpath(os.path.expanduser(source)))
        if output.is_relative_to(place) or place.is_relative_to(output):
            raise InputError(f"--output {arguments.output}: overlaps with {source}; choose a folder outside")


def _name_scenes(collection: Collection, expression: str) -> Collection:
    from nlcl_plugin.prepare.pairing import compiled

    pattern = compiled(expression)

    def scene(source: SourceImage) -> str:
        found = pattern.search(source.name)
        if not found:
            raise InputError(f"--scene: {expression[:200]!r} finds nothing in {source.name!r}; correct it")
        return "/".join(group or "" for group in found.groups()) or found[0]

    # A pair is one scene, that of its clean image.
    return replace(collection, images=[replace(i, scene=scene(i.twin or i.source)) for i in collection.images])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="folder of the dataset")
    add("--layout", choices=(*LAYOUT_NAMES, STATIC_VIDEO), help="how the dataset is laid out")
    add("--output", required=True, metavar="DIR", help="folder to make")
    add("--rainy", metavar="DIR", help="rainy images or videos")
    add("--clean", metavar="DIR", help="clean images or videos")
    add("--val-rainy", metavar="DIR", help="two-folders: rainy images of validation pairs")
    add("--val-clean", metavar="DIR", help="two-folders: their clean images, of equal names")
    add("--pair-by", choices=("stem", "affix", "regex", "list", "order"), help="how --rainy and --clean pair")
    add("--rainy-name", metavar="FORM", help="affix: rainy names without ending, such as {}_rain")
    add("--clean-name", metavar="FORM", help="affix: clean names without ending, such as {}_clean")
    add("--rainy-regex", metavar="REGEX", help="regex: its groups are what pairs have in common")
    add("--clean-regex", metavar="REGEX", help="regex: for clean paths (default: the same)")
    add("--list", metavar="FILE", help="list, SPA-Data: 'rainy_path clean_path' on each line")
    add("--rain-side", choices=("left", "right"), help="side-by-side: which half is rainy")
    add("--paired-val", action="store_true", help="trainA/trainB: valA and valB are pairs of equal names")
    add("--scene", metavar="REGEX", help="its groups, or all it finds in a path, name the scene")
    add(
        "--val-fraction",
        type=number(0, 1, float),
        metavar="X",
        help="fraction of scenes (default: own split, or 0.1 of pairs)",
    )
    add("--val-split", choices=("val", "test"), help="which of the dataset's own splits is for validation")
    add("--seed", type=int, default=0, help="seed of the split (default: %(default)s)")
    add("--keep-twins", action="store_true", help="train on both images of a pair")
    add(
        "--near-duplicates",
        type=number(0, 128),
        metavar="BITS",
        help="drop images this near to another, of 128 (default: frames, 6)",
    )
    add(
        "--leakage-bits",
        type=number(0, 128),
        default=4,
        metavar="BITS",
        help="how near is the same (default: %(default)s of 128)",
    )
    add("--allow-leakage", action="store_true", help="continue when training and validation contain the same images")
    add("--every", type=number(1), default=15, metavar="N", help="videos: the sharpest of every N frames (default: 15)")
    add("--copy", action="store_true", help="copy files instead of linking them")
    add("--strict", action="store_true", help="an unreadable image ends the run, twins in unpaired training too")
    add("--dry-run", action="store_true", help="print the plan and change nothing")
    add("--jobs", type=number(1, 256), default=2, metavar="N", help="threads (default: %(default)s)")
