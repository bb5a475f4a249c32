"""Compare networks on photographs of real rain: pairs, clean photographs, rainy ones to look at.

Usage: python tools/real_rain.py --weights W [W ...] --output DIR [--pairs RAINY CLEAN] [--clean DIR] [--rainy DIR]

Each W is what basicsr derain takes as --weights, such as `real` or `demo`. Give what you have of

--pairs   photographs with rain and the same without, by the same names: the change of PSNR (dB) and SSIM, and the
          precision and recall of streak pixels (O - B > 0.05 against O - G > 0.05)
--clean   photographs without rain: PSNR (dB) of what is left of them; and on the same with thin structure drawn into
          them (cables, letters and so on; the seed is its place in the sorted folder), the PSNR where it was drawn
--rainy   photographs with rain and no ground truth: the streaks that are left (`metrics.streaks`), the largest change
          of a channel's mean (levels of 255), NIQE before and after, and sheet.png, for the eye. NIQE is a weak judge
          here: it often calls visibly cleaner photographs worse

Writes DIR/real_rain.json, real_rain.md and, with --rainy, sheet.png: per photograph the place at which the networks
took most, in full resolution.

Exit codes: 0 done, 2 bad usage or input, 5 interrupted.
"""

import argparse
import json
import math
import os
import sys
from pathlib import Path

import numpy as np

from nlcl_plugin.cli import import_module
from nlcl_plugin.data.files import write_whole
from nlcl_plugin.data.image_io import list_images, read_image, to_float, to_uint8, write_image
from nlcl_plugin.data.progress import ProgressBar
from nlcl_plugin.errors import InputError, escape, exit_code_of, writing_to
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import PLAIN
from nlcl_plugin.inference.measures import find_truth, measure
from nlcl_plugin.media.photograph import MAX_PIXELS
from nlcl_plugin.metrics.quality import psnr
from nlcl_plugin.pictures import Cell, grid
from nlcl_plugin.rain.structure import draw_structure


def main(argv=None) -> int:
    arguments = _parser().parse_args(argv)
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    for name in arguments.imports:
        import_module(name)
    if not (arguments.pairs or arguments.clean or arguments.rainy):
        raise InputError("nothing to measure: received none of --pairs, --clean and --rainy; give at least one")
    output = Path(arguments.output)
    with writing_to(output):  # now, not after minutes of work
        output.mkdir(parents=True, exist_ok=True)
    if arguments.side < 1:
        raise InputError(f"--side: expected at least 1 pixel, but received {arguments.side}")
    labels = [_label(name) for name in arguments.weights]
    if len(set(labels)) < len(labels):
        labels = arguments.weights
    if len(set(labels)) < len(labels):
        raise InputError(f"--weights: expected different networks, but received {', '.join(labels)}")
    networks = {
        label: ImageDerainer(name, **{key: getattr(arguments, key) for key in PLAIN})
        for label, name in zip(labels, arguments.weights, strict=True)
    }
    results: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    if arguments.pairs:
        rainy, clean = arguments.pairs
        results["pairs"] = _each(rainy, networks, lambda name, o, b: _pair(name, o, b, Path(clean)))
    if arguments.clean:
        results["clean"] = _each(arguments.clean, networks, lambda _, o, b: {"psnr": psnr(to_uint8(b), to_uint8(o))})
        for name, rows in _structure(arguments.clean, networks).items():
            for weights, value in rows.items():
                results["clean"][name][weights] |= value
    if arguments.rainy:
        kept: dict[str, list[np.ndarray]] = {}
        results["rainy"] = _each(arguments.rainy, networks, lambda name, o, b: _blind(name, o, b, kept))
        write_image(output / "sheet.png", _sheet(kept, list(networks), arguments.side))
    write_whole(output / "real_rain.json", json.dumps(results, indent=2).encode())
    table = _table(results, list(networks))
    write_whole(output / "real_rain.md", table.encode())
    print("\n".join(escape(line) for line in table.splitlines()))
    print(f"written to {escape(str(output))}")
    return 0


def _label(weights):
    """A short name: of experiments/A/models/net_g_5.pth, A/net_g_5."""
    path = Path(os.path.abspath(weights))
    if not path.is_file():
        return path.name
    return f"{path.parents[1].name}/{path.stem}" if path.parent.name == "models" else path.stem


def _each(folder, networks, figures):
    """Figures of each photograph of a folder under each network."""
    found = {}
    for name in ProgressBar(list_images(folder), os.path.basename(os.path.normpath(folder))):
        rainy = read_image(os.path.join(folder, name))
        found[name] = {weights: figures(name, rainy, network.array(rainy)) for weights, network in networks.items()}
    return found


def _pair(name, rainy, derained, clean):
    truth = find_truth(clean, Path(name))
    if truth is None:
        raise InputError(f"--pairs: {clean} has no {name}; give two folders with photographs of equal names")
    found = measure(rainy, derained, False, truth, MAX_PIXELS)
    change = {key: found[key] - found[f"{key}_rainy"] for key in ("psnr", "ssim")}
    return change | {key: found[key] for key in ("streak_precision", "streak_recall") if key in found}


def _structure(folder, networks):
    """PSNR at the pixels of drawn structure, of each photograph that gets any."""
    found = {}
    for seed, name in enumerate(ProgressBar(list_images(folder), "structure")):
        clean = read_image(os.path.join(folder, name))
        drawn = draw_structure(clean, np.random.default_rng(seed))
        places = np.abs(drawn - clean).max(axis=2) > 1 / 255
        if places.any():
            found[name] = {
                weights: {"structure_psnr": psnr(255 * network.array(drawn)[places], 255 * drawn[places])}
                for weights, network in networks.items()
            }
    return found


def _blind(name, rainy, derained, kept):
    kept.setdefault(name, [to_uint8(rainy)]).append(to_uint8(derained))
    found = measure(rainy, derained, True, None, MAX_PIXELS)
    change = 255 * float(np.abs((derained - rainy).mean(axis=(0, 1))).max())
    return {key: found[key] for key in ("streaks_left", "niqe_rainy", "niqe") if key in found} | {"colour": change}


def _sheet(kept, weights, side):
    rows = []
    for name, (rainy, *derained) in kept.items():
        height, width = (min(side, length) for length in rainy.shape[:2])
        taken = sum(np.maximum(to_float(rainy) - to_float(one), 0).mean(axis=2) for one in derained)
        sums = np.pad(taken, ((1, 0), (1, 0))).cumsum(0).cumsum(1)  # of all above and to the left
        boxes = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
        top, left = np.unravel_index(int(boxes.argmax()), boxes.shape)
        cells = [image[top : top + height, left : left + width] for image in (rainy, *derained)]
        rows.append([Cell(cells[0], name), *map(Cell, cells[1:])])
    return grid(rows, side, titles=["rainy", *weights])


def _table(results, weights):
    """A Markdown table per kind of photographs: a row per photograph and network, and the means."""
    lines = []
    for kind, photographs in results.items():
        names = list(dict.fromkeys(key for rows in photographs.values() for row in rows.values() for key in row))
        lines += [f"| {kind} | weights | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        rows = [(name, one, photographs[name][one]) for name in photographs for one in weights]
        for one in weights:
            values = {key: [rows[one][key] for rows in photographs.values() if key in rows[one]] for key in names}
            finite = {key: [x for x in column if math.isfinite(x)] for key, column in values.items()}
            means = {key: float(np.mean(column)) if column else math.nan for key, column in finite.items()}
            rows.append((f"mean of {len(photographs)}", one, means))
        for name, one, row in rows:
            cells = [f"{row[key]:.3f}" if math.isfinite(row.get(key, math.nan)) else "" for key in names]
            lines.append(f"| {name} | {one} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", nargs="+", required=True, metavar="W", help="network files, folders of trainings, real or demo")
    text = "import a module of yours, which registers the architecture of W; repeatable"
    add("--import", action="append", default=[], dest="imports", metavar="MODULE", help=text)
    add("--output", required=True, metavar="DIR", help="folder for the results")
    add("--pairs", nargs=2, metavar=("RAINY", "CLEAN"), help="folders of pairs")
    add("--clean", metavar="DIR", help="folder of photographs without rain")
    add("--rainy", metavar="DIR", help="folder of photographs with rain")
    add("--longest-side", type=int, metavar="PIXELS", help="as in basicsr derain (default: what the weights say)")
    add("--strength", type=float, metavar="FACTOR", help="as in basicsr derain (default: what the weights say)")
    for flag in ("--adaptive", "--keep-colours"):
        text = "as in basicsr derain (default: what the weights say)"
        add(flag, action=argparse.BooleanOptionalAction, help=text)
    add("--side", type=int, default=320, help="side of the sheet's pictures in pixels (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
