"""Export a trained network for other runtimes: ONNX, or its weights as .safetensors.

Usage: basicsr export WEIGHTS --output FILE.onnx [--half] [--opset 18]

WEIGHTS is a network file (net_*.pth, net_*.safetensors, a checkpoint of tools/mm_train.py, released weights) or the
folder of a training, whose restorer (net_s, else net_g) is taken: the best in validation, or with --newest the newest.
ONNX contains one graph: `rainy` (batch, 3, height, width), RGB in [0, 1], any size, to `derained`, the same, not
clipped. The file is compared with PyTorch on odd sizes and batches, and written only if it agrees (1e-4 of full scale;
--half: 1e-2). Network, layer, values, licence and iteration are inside.

ONNX needs pip install 'nlcl_plugin[export]'. Exit codes: 0 done, 2 bad usage or input, 5 interrupted.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from nlcl_plugin.commands.numbers import number
from nlcl_plugin.errors import escape, size_of


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.inference.derainer import PLAIN, load_derainer
    from nlcl_plugin.inference.export import CHECKED_SHAPES, export

    output = Path(arguments.output).expanduser()
    settings = {key: getattr(arguments, key) for key in PLAIN if getattr(arguments, key) is not None}
    derainer = load_derainer(arguments.weights, label=arguments.label, take_newest=arguments.newest, **settings)
    noted = {**settings, "license": arguments.license or derainer.about["license"]}
    derainer = replace(derainer, about={**derainer.about, **noted})
    difference = export(derainer, output, half=arguments.half, opset=arguments.opset)
    sizes = ", ".join(f"{batch}×{height}×{width}" for batch, _, height, width in CHECKED_SHAPES)
    network = f"{derainer.about['network']['type']} of {derainer.source}"
    print(escape(f"{output}: {network}, {size_of(output.stat().st_size)}"))
    print(f"Differs from PyTorch in float32 by at most {difference:.1e} on {sizes}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="network file, or folder of a training")
    add("--label", choices=("g", "r", "s"), help="which network of the folder")
    add("--newest", action="store_true", help="of a folder the newest network, not the best in validation")
    add("--output", required=True, metavar="FILE", help="file to write: .onnx, or the weights as .safetensors")
    add("--half", action="store_true", help="float16 inside (float32 in and out)")
    add("--opset", type=int, default=18, metavar="N", help="of ONNX (default: %(default)s)")
    add("--license", metavar="TEXT", help="licence of the weights, to note in the file")
    text = "side to which basicsr derain reduces larger images to find rain, to note in the file; 0: any size"
    add("--longest-side", type=number(0), metavar="PIXELS", help=text)
    text = "factor of basicsr derain on the rain, to note in the file"
    add("--strength", type=number(0, 10, float), metavar="FACTOR", help=text)
    text = "whether basicsr derain subtracts more where more of the image has rain, to note in the file"
    add("--adaptive", action=argparse.BooleanOptionalAction, help=text)
    text = "whether basicsr derain leaves colours and brightness of regions as they are, to note in the file"
    add("--keep-colours", action=argparse.BooleanOptionalAction, help=text)
