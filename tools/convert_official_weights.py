"""Turn the released NLCL generators (latest_net_Back.pth, latest_net_Rain.pth) into BasicSR checkpoints.

Usage: python tools/convert_official_weights.py latest_net_Back.pth net_g_official.pth
"""

import argparse
import os
import pickle
import sys

import torch

from nlcl_plugin.archs import convert_official_state_dict
from nlcl_plugin.engine.network_file import official_about, released_layer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="released weights: latest_net_Back.pth (image layer) or latest_net_Rain.pth")
    parser.add_argument("output", help="BasicSR checkpoint to write: {'params': ...} for LayerGenerator")
    arguments = parser.parse_args()
    try:
        weights = torch.load(arguments.input, map_location="cpu", weights_only=True)
        if not isinstance(weights, dict):
            raise ValueError(f"expected a state dict, but the file holds a {type(weights).__name__}")
        converted = convert_official_state_dict(weights)
        temporary = f"{arguments.output}.tmp"
        layer = released_layer(converted) or ("rain" if "Rain" in os.path.basename(arguments.input) else "image")
        torch.save({"params": converted, "about": official_about(layer)}, temporary)
        os.replace(temporary, arguments.output)
    except (OSError, ValueError, RuntimeError, EOFError, IndexError, pickle.UnpicklingError) as error:
        print(f"error: {arguments.input}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"{arguments.output}: {len(converted)} tensors for LayerGenerator(layer: {layer})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
