"""Remove the rain from photographs and videos.

Usage: basicsr derain INPUT... --output DIR [--weights W]

INPUT is any number of images, folders (searched recursively), globs and videos, or - for names on standard input.
DIR gets the results under the same names, in the same folders and formats: 8 or 16 bits, grey, alpha, colour profile
and EXIF stay, a video keeps its sound and the times of its frames. Files already derained with the same weights from
the same input are skipped.

W is a network file (net_*.pth, .safetensors, .onnx), the folder of a training such as experiments/nlcl_small or
work_dirs/nlcl_rain, a checkpoint of the latter, or released NLCL weights. Of a folder in experiments/ the network that
was best in validation is used, or with --newest the newest. Without W, `real` is used, the weights for photographs of
real rain that come with the package (docs/model_card.md); `demo` are those of the quickstart, which know rendered rain.

Exit codes: 0 done, 2 bad usage or input, 3 done but some files failed (listed), 5 interrupted: run it again to
continue.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nlcl_plugin.commands.numbers import number
from nlcl_plugin.errors import InputError, counted, escape


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.inference.derain import ImageDerainer
    from nlcl_plugin.inference.derain_files import DerainOptions, derain_files
    from nlcl_plugin.media.inputs import list_inputs
    from nlcl_plugin.networks.weights import PACKAGED

    output = Path(arguments.output)
    left: list[str] = []
    jobs = list_inputs(arguments.inputs, output, null=arguments.null, left=left)
    network = ImageDerainer(
        arguments.weights,
        device=arguments.device,
        amp=arguments.amp,
        take_newest=arguments.newest,
        longest_side=arguments.longest_side,
        strength=arguments.strength,
        adaptive=arguments.adaptive,
        keep_colours=arguments.keep_colours,
    )
    options = DerainOptions(
        output=output,
        save=_kinds(arguments.save),
        measured=arguments.metrics,
        reference=Path(arguments.reference) if arguments.reference else None,
        batch=arguments.batch,
        jobs=arguments.jobs,
        overwrite=arguments.overwrite,
        max_pixels=arguments.max_pixels,
    )
    report = derain_files(jobs, network, options)
    there = f", {report.there} already there" if report.there else ""
    about = network.derainer.about
    iteration = f", iteration {about['iter']}" if about["iter"] else ""
    lines = [
        f"{output}: {report.made} derained{there}",
        f"weights: {network.derainer.source} ({about['network']['type']}{iteration})",
    ]
    if left:
        more = ", …" if len(left) > 3 else ""
        what = "that is not an image or a video" if len(left) == 1 else "that are not images or videos"
        lines.append(f"skipped {counted(len(left), 'file')} {what}: {', '.join(left[:3])}{more}")
    lines += [f"note: {note}" for note in report.notes]
    if network.derainer.source == PACKAGED["demo"]:
        lines.append("note: demo knows the rendered rain of the quickstart; for photographs of real rain use real")
    if report.measured:
        lines.append(f"figures of {counted(report.measured, 'file')}: {output / 'metrics.csv'} and metrics.json")
    lines += [f"{len(report.failed)} failed:"] if report.failed else []
    lines += [f"  {reason if reason.startswith(name) else f'{name}: {reason}'}" for name, reason in report.failed]
    print("\n".join(escape(line) for line in lines))
    return report.exit_code


def _kinds(text: str | None) -> tuple[str, ...]:
    from nlcl_plugin.inference.derain_files import PICTURES

    wanted = tuple(text.split(",")) if text else ()
    for kind in wanted:
        if kind not in PICTURES:
            raise InputError(f"--save: expected some of {','.join(PICTURES)}, but received {kind!r}")
    return wanted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="images, folders, globs, videos, or - for names on standard input")
    add("--output", required=True, metavar="DIR", help="folder for the results")
    add(
        "--weights",
        metavar="W",
        help="network file, folder of a training, real or demo (default: real, of the package)",
    )
    add("--newest", action="store_true", help="of a folder the newest network, not the best in validation")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    add("--amp", action="store_true", help="bfloat16: less time where the processor has it, off by some grey levels")
    text = "detect rain in a copy reduced to this longest side, and subtract it from the photograph; 0: any size"
    add("--longest-side", type=number(0), metavar="PIXELS", help=f"{text} (default: from the weights, else 0)")
    text = "factor on the rain that is subtracted, up to 10: above 1 removes more rain, and more structure"
    add("--strength", type=number(0, 10, float), metavar="FACTOR", help=f"{text} (default: from the weights, else 1)")
    text = "subtract more where more of the image has rain"
    either, default = argparse.BooleanOptionalAction, "(default: from the weights, else no)"
    add("--adaptive", action=either, help=f"{text} {default}")
    text = "leave the colours and the brightness of regions as they are"
    add("--keep-colours", action=either, help=f"{text} {default}")
    add(
        "--batch",
        type=number(1),
        default=1,
        help="images or frames of one size at once, for GPUs (default: %(default)s)",
    )
    add("--jobs", type=number(1), default=4, help="threads that read and write images (default: %(default)s)")
    add("--save", metavar="KIND,...", help="also save pictures into DIR/_KIND: rain, montage, heatmap")
    add("--metrics", action="store_true", help="NIQE before and after, in metrics.csv and metrics.json")
    add("--reference", metavar="DIR", help="ground truth of the same names: also PSNR and SSIM")
    add("--overwrite", action="store_true", help="replace what other weights, settings or programs made")
    add("--max-pixels", type=number(1), default=200_000_000, help="refuse larger images (default: %(default)s)")
    add("-0", "--null", action="store_true", help="names on standard input end with NUL, not with a newline")
