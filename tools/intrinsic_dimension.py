"""Measure the intrinsic dimension of image layers and rain layers: is rain the simpler of the two?

Usage: python tools/intrinsic_dimension.py --image clean FOLDER --difference rain RAINY CLEAN --out DIR
       python tools/intrinsic_dimension.py --networks net_g.pth [net_r.pth] --rainy FOLDER --out DIR

All of these go together in one table. Writes intrinsic_dimension.json, .md and .png into DIR. Points are patches of an
image, drawn at random or the non-local neighbours of queries; estimators are Levina and Bickel's (MLE) and TwoNN; their
bias is measured on cubes of known dimension beside them.

Exit codes: 0 done, 1 a fault of this software, 2 bad usage or input, 3 done but images were skipped (listed),
5 interrupted.
"""

import argparse
import itertools
import sys
from dataclasses import fields

from studies.intrinsic_dimension.report import as_markdown, write_dimension_report
from studies.intrinsic_dimension.sources import difference_source, folder_source, network_source
from studies.intrinsic_dimension.study import Settings, calibrate, study

import nlcl_plugin  # noqa: F401  before BasicSR, which it mends
from nlcl_plugin.errors import InputError, escape, exit_code_of

_DEFAULT = Settings()


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(arguments), interrupted="nothing was written")


def _run(arguments: argparse.Namespace) -> int:
    settings = Settings(**{field.name: getattr(arguments, field.name) for field in fields(Settings)})
    layers, skipped = study(itertools.chain(*_sources(arguments)), settings)
    known = calibrate(settings)
    files = write_dimension_report(arguments.out, layers, known, settings, skipped)
    print(as_markdown(layers, known, settings))
    print()
    print(escape("written: " + ", ".join(str(file) for file in files)))
    if not skipped:
        return 0
    print(f"{len(skipped)} skipped:")
    print("\n".join(escape(f"  {line}") for line in skipped))
    return 3


def _sources(arguments: argparse.Namespace) -> list:
    networks = arguments.networks is not None
    if networks != (arguments.rainy is not None):
        raise InputError("--rainy goes with --networks: networks need rainy images, and those need networks")
    if networks and len(arguments.networks) > 2:
        raise InputError(f"--networks: expected one for B and at most one for R, received {len(arguments.networks)}")
    names = [entry[0] for entry in (*arguments.image, *arguments.rain, *arguments.difference)]
    names += [f"{arguments.label} {layer}".strip() for layer in ("B", "R") if networks]
    if len(set(names)) < len(names):
        raise InputError(f"layers must have different names, received {', '.join(names)}; rename one or set --label")
    sources = []
    if networks:
        sources.append(network_source(arguments.networks, arguments.rainy, label=arguments.label))
    sources += [folder_source(name, folder, rain=False) for name, folder in arguments.image]
    sources += [folder_source(name, folder, rain=True) for name, folder in arguments.rain]
    sources += [difference_source(*entry) for entry in arguments.difference]
    if not sources:
        raise InputError("there is nothing to measure: give --image, --rain, --difference, or networks with --rainy")
    return sources


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    two = {"nargs": 2, "action": "append", "default": []}
    add("--image", metavar=("NAME", "FOLDER"), help="images as they are; may be repeated", **two)
    add("--rain", metavar=("NAME", "FOLDER"), help="rain layers as they are; may be repeated", **two)
    add(
        "--difference",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "RAINY", "CLEAN"),
        help="rain as rainy less clean images of equal names; may be repeated",
    )
    add("--networks", nargs="+", metavar="FILE", help="network for B and, if R is not O - B, one for R")
    add("--rainy", metavar="FOLDER", help="rainy images that they split into B and R")
    add("--label", default="", metavar="TEXT", help="put before the names B and R")
    add("--out", required=True, metavar="DIR", help="folder for the results")
    for flag, name, text in (("patch-size", "patch_sizes", "sides of patches"), ("k", "ks", "numbers of neighbours")):
        text += " (default: %(default)s)"
        add(f"--{flag}", dest=name, type=int, nargs="+", default=getattr(_DEFAULT, name), help=text)
    for name, text in (
        ("num-patches", "random patches per image"),
        ("num-queries", "queries per image"),
        ("search-size", "side of the search window"),
        ("seed", "seed of all draws"),
    ):
        add(
            f"--{name}",
            type=int,
            default=getattr(_DEFAULT, name.replace("-", "_")),
            help=f"{text} (default: %(default)s)",
        )
    add("--flat", type=float, default=_DEFAULT.flat, help="deviation up to which a patch is flat (default: 1/255)")
    add("--remove-mean", action="store_true", help="subtract from each patch its mean in each channel")
    return parser


if __name__ == "__main__":
    sys.exit(main())
