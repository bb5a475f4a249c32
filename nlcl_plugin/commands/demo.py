"""Try the weights on photographs, on a page in the browser.

Usage: basicsr demo [--weights W]...

The page shows a photograph before and after, with a slider between them, and its rain layer; the result can be
downloaded at full size. It is served to this machine only (127.0.0.1), and photographs do not leave it. Needs gradio:
pip install "nlcl_plugin[demo]". Ctrl-C stops it.

Exit codes: 0 stopped by Ctrl-C, 2 bad usage or input.
"""

from __future__ import annotations

import argparse
import signal
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from nlcl_plugin.commands.numbers import number
from nlcl_plugin.errors import InputError


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    try:
        from nlcl_plugin.inference.demo_page import build_page, serve
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError('the page needs gradio: run pip install "nlcl_plugin[demo]"') from error
    from nlcl_plugin.inference.derain import ImageDerainer

    weights = dict.fromkeys([*arguments.weights, "real", "demo"])
    networks = {name: ImageDerainer(name, device=arguments.device) for name in weights}
    for name in ("SIGTERM", "SIGHUP"):  # a closed terminal must not leave photographs behind
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    with TemporaryDirectory(prefix="nlcl_demo-") as folder:
        page = build_page(networks, Path(folder), max_pixels=arguments.max_pixels)
        with suppress(KeyboardInterrupt):  # which gradio takes only once it waits
            serve(page, port=arguments.port, max_bytes=8 * arguments.max_pixels)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    add = parser.add_argument
    text = "network file or folder of a training to offer beside real and demo; repeatable"
    add("--weights", action="append", default=[], metavar="W", help=text)
    add("--port", type=number(1, 65535), help="where to listen (default: the first free one from 7860)")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: %(default)s)")
    text = "refuse larger photographs (default: %(default)s)"
    add("--max-pixels", type=number(1), default=50_000_000, metavar="PIXELS", help=text)
