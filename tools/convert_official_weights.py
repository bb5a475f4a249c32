"""Turn the released NLCL generators (latest_net_Back.pth, latest_net_Rain.pth) into BasicSR checkpoints.

Usage: python tools/convert_official_weights.py latest_net_Back.pth net_g_official.pth

Exit codes: 0 done, 2 bad usage or input.
"""

import argparse
import sys
from pathlib import Path

import torch

from nlcl_plugin.archs import convert_official_state_dict
from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import InputError, exit_code_of
from nlcl_plugin.networks.network_file import official_about, released_layer
from nlcl_plugin.networks.weights import load_plain


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, help="latest_net_Back.pth (image layer) or latest_net_Rain.pth")
    parser.add_argument("output", type=Path, help="BasicSR checkpoint to write: {'params': ...} for LayerGenerator")
    arguments = parser.parse_args(argv)
    return exit_code_of(lambda: _convert(arguments.input, arguments.output))


def _convert(source: Path, target: Path) -> int:
    weights = load_plain(source)
    try:
        converted = convert_official_state_dict(weights)
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{source}: is no released generator ({error}); give latest_net_Back.pth") from error
    layer = released_layer(converted) or ("rain" if "Rain" in source.name else "image")
    try:
        with written_whole(target) as file:
            torch.save({"params": converted, "about": official_about(layer)}, file)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}); give another OUTPUT") from error
    print(f"{target}: {len(converted)} tensors for LayerGenerator(layer: {layer})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
