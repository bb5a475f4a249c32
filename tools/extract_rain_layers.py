"""Extract the rain layer of every image of a folder or LMDB into a bank: an LMDB in BasicSR's layout.

Usage: python tools/extract_rain_layers.py EXPERIMENT --input RAINY --output BANK.lmdb
       python tools/extract_rain_layers.py --weights net_g.pth -opt OPTIONS.yml --input RAINY --output BANK.lmdb

EXPERIMENT is the folder of a training, such as experiments/nlcl_quickstart. The layers are 8-bit PNGs, grey where the
rain is; negative values are dropped. BANK.lmdb/rain_bank.png shows some of them beside their images,
BANK.lmdb/rain_bank.json says where they came from, and BANK.lmdb/keys.jsonl of which image each is. Train on them with
PseudoPairDataset (options/restorer_from_bank.yml). Run the same command again after an interruption.

Exit codes: 0 done, 2 bad usage or input, 3 done but unreadable images were skipped, 5 interrupted.
"""

import argparse
import sys
from pathlib import Path

import nlcl_plugin  # noqa: F401  mends BasicSR
from nlcl_plugin.engine.options import load_yaml
from nlcl_plugin.engine.rain_bank import extract_rain_bank, read_facts
from nlcl_plugin.engine.rain_network import Checkpoint, find_checkpoint
from nlcl_plugin.errors import InputError, escape, exit_code_of


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    report = extract_rain_bank(
        _checkpoint(arguments),
        arguments.input,
        arguments.output,
        overwrite=arguments.overwrite,
        tell=lambda line: print(escape(line)),
    )
    facts = read_facts(arguments.output)
    made = "already made" if report.already_made else f"{report.encoded} extracted in this run"
    lines = [
        f"{arguments.output}: {report.values} rain layers, {report.bytes / 1e6:.1f} MB; {made}",
        f"mean R {facts['mean_rain']:.4f}, brightest {facts['max_rain']:.2f}",
        f"Picture: {Path(arguments.output) / 'rain_bank.png'}",
    ]
    lines += [f"{len(report.skipped)} could not be read and were skipped:"] if report.skipped else []
    lines += [f"  {one.source}: {one.reason}" for one in report.skipped]
    print("\n".join(escape(line) for line in lines))
    return report.exit_code


def _checkpoint(arguments: argparse.Namespace) -> Checkpoint:
    if (arguments.experiment is None) == (arguments.weights is None):
        raise InputError("expected EXPERIMENT, the folder of a training, or --weights with -opt; give one of the two")
    if (arguments.opt is None) != (arguments.weights is None):
        raise InputError("--weights and -opt go together: weights, and the options that name their network")
    if arguments.experiment is not None:
        return find_checkpoint(arguments.experiment, arguments.checkpoint)
    return Checkpoint(load_yaml(arguments.opt), Path(arguments.weights))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("experiment", nargs="?", metavar="EXPERIMENT", help="folder of a training")
    add("--checkpoint", default="latest", metavar="ITER|latest", help="which weights of it (default: %(default)s)")
    add("--weights", metavar="FILE", help="weights of net_g, or of net_r for two_branch, instead of EXPERIMENT")
    add("-opt", "--opt", metavar="FILE", help="option file that names the network of --weights")
    add("--input", required=True, metavar="RAINY", help="rainy images: a folder, searched to its depth, or an LMDB")
    add("--output", required=True, metavar="BANK.lmdb", help="bank to make")
    add("--overwrite", action="store_true", help="replace a bank that is there, when the new one is whole")
    return parser


if __name__ == "__main__":
    sys.exit(main())
