"""Extract the rain layer of every image of a folder or LMDB into a bank: an LMDB in BasicSR's layout.

Usage: basicsr bank WEIGHTS --input RAINY --output BANK.lmdb

WEIGHTS is the folder of a training, such as experiments/nlcl_quickstart, whose first stage is used (net_r if it has
one, else net_g), or a network file. The layers are 8-bit PNGs, grey where the rain is; negative values are dropped.
BANK.lmdb/rain_bank.png shows some of them beside their images, BANK.lmdb/rain_bank.json says where they came from, and
BANK.lmdb/keys.jsonl of which image each is. Train on them with PseudoPairDataset (options/restorer_from_bank.yml). Run
the same command again after an interruption.

Exit codes: 0 done, 2 bad usage or input, 3 done but unreadable images were skipped, 5 interrupted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nlcl_plugin.errors import InputError, counted, escape, size_of


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.inference.derain import ImageDerainer
    from nlcl_plugin.inference.rain_bank import BANK_FILE, SHEET_FILE, extract_rain_bank

    which = {"label": arguments.label, "order": ("r", "g"), "take_newest": arguments.newest}
    network = ImageDerainer(arguments.weights, device=arguments.device, **which)
    report = extract_rain_bank(network, arguments.input, arguments.output, overwrite=arguments.overwrite)
    bank = Path(arguments.output).expanduser()
    try:
        facts = json.loads((bank / BANK_FILE).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{bank / BANK_FILE}: cannot be read ({error}); give --overwrite") from error
    made = "; already made" if report.already_made else ""
    lines = [
        f"{arguments.output}: {counted(report.values, 'rain layer')}, {size_of(report.bytes)}{made}",
        f"mean R {facts['mean_rain']:.4f}, brightest {facts['max_rain']:.2f}",
        f"Picture: {bank / SHEET_FILE}",
    ]
    lines += [f"skipped {counted(len(report.skipped), 'file')} that could not be read:"] if report.skipped else []
    lines += [f"  {one.source}: {one.reason}" for one in report.skipped]
    print("\n".join(escape(line) for line in lines))
    return 3 if report.skipped else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="folder of a training, or network file")
    add("--label", choices=("g", "r", "s"), help="which network of the folder")
    add("--newest", action="store_true", help="of a folder the newest network, not the best in validation")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    add("--input", required=True, metavar="RAINY", help="rainy images: a folder, searched recursively, or an LMDB")
    add("--output", required=True, metavar="BANK.lmdb", help="bank to make")
    add("--overwrite", action="store_true", help="replace an existing bank once the new one is complete")
