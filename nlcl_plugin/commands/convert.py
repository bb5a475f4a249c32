"""Turn the released NLCL generators (latest_net_Back.pth, latest_net_Rain.pth) into BasicSR checkpoints.

Usage: basicsr convert latest_net_Back.pth net_g_official.pth

Exit codes: 0 done, 2 bad usage or input.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from nlcl_plugin.errors import InputError, writing_to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "latest_net_Back.pth (image layer) or latest_net_Rain.pth"
    parser.add_argument("input", type=Path, metavar="INPUT", help=text)
    text = "BasicSR checkpoint to write: {'params': ...} for LayerGenerator"
    parser.add_argument("output", type=Path, metavar="OUTPUT", help=text)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    import torch

    from nlcl_plugin.archs import convert_official_state_dict
    from nlcl_plugin.data.files import written_whole
    from nlcl_plugin.networks.network_file import official_about, released_layer
    from nlcl_plugin.networks.weights import load_plain

    source, target = arguments.input, arguments.output
    weights = load_plain(source)
    try:
        converted = convert_official_state_dict(weights)
    except (ValueError, AttributeError, TypeError) as error:
        reason = error if isinstance(error, ValueError) else "not a released NLCL generator"
        raise InputError(f"{source}: {reason}; give latest_net_Back.pth or latest_net_Rain.pth") from error
    layer = released_layer(converted) or ("rain" if "Rain" in source.name else "image")
    with writing_to(target), written_whole(target) as file:
        torch.save({"params": converted, "about": official_about(layer)}, file)
    print(f"{target}: {len(converted)} tensors for LayerGenerator(layer: {layer})")
    return 0
