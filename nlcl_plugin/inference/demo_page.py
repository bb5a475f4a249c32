"""A page in the browser on which photographs are derained: upload, choose, compare, download. Needs gradio."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio
import numpy as np

from nlcl_plugin.data.image_io import to_float, to_uint8
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import STRONGEST
from nlcl_plugin.media.photograph import read_photograph, write_photograph
from nlcl_plugin.pictures import brightened, fit

SHOWN_SIDE = 1600  # pixels: the longest side of what is shown; the download has the size of the photograph
KEPT = 3600  # seconds that the server keeps uploads and results
_MOST = 3.0  # factor on the strength; above it, structure goes faster than rain
_HEAD = """# Remove the rain from a photograph
Photographs stay on the machine that runs this page; they are deleted after an hour and when it stops."""


def build_page(networks: Mapping[str, ImageDerainer], folder: Path, *, max_pixels: int) -> gradio.Blocks:
    """Build the page.

    Args:
        networks: What can be chosen, by the names that are shown; the first one is chosen at first.
        folder: Gets the uploads and results; the caller deletes it.
        max_pixels: Pixels of a photograph; larger ones are refused.

    Returns:
        The page, not yet served.
    """
    # gradio serves what is in its own folder as it is, and copies of all else, named by their content.
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "served")
    results = folder / "results"
    results.mkdir()

    def run(path: str | None, chosen: str, strength: float) -> tuple[Any, ...]:
        if path is None:
            raise gradio.Error("Choose a photograph first.", print_exception=False)
        for old in results.iterdir():
            old.unlink()  # its copy is deleted in time
        try:
            network = copy.copy(networks[chosen])
            network.derainer = replace(network.derainer, strength=min(strength * network.derainer.strength, STRONGEST))
            return _derain_file(Path(path), results, max_pixels, network)
        except (InputError, OSError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise gradio.Error(f"{Path(path).name}: {reason}", print_exception=False) from error

    with gradio.Blocks(title="nlcl_plugin", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        gradio.Markdown(_HEAD)
        with gradio.Row():
            with gradio.Column(scale=1):
                photograph = gradio.Image(
                    label="Photograph", type="filepath", image_mode=None, sources=["upload", "clipboard"], buttons=[]
                )
                # The file as it is, for `read_photograph`; gradio answers a broken one with a page of text.
                photograph.preprocess = lambda upload: upload and upload.path
                text = "real: for photographs of real rain. demo: for rendered rain, as in the quickstart."
                chosen = gradio.Dropdown(list(networks), label="Weights", info=text)
                text = "Factor on the default of the weights: above 1 more rain is removed, and more of the structure."
                strength = gradio.Slider(0.25, _MOST, value=1.0, step=0.25, label="Strength", info=text)
                button = gradio.Button("Derain", variant="primary")
            with gradio.Column(scale=2):
                both = gradio.ImageSlider(label="Before and after", interactive=False, buttons=["fullscreen"])
                facts = gradio.Markdown()
                download = gradio.DownloadButton("Download", interactive=False)
                rain = gradio.Image(label="Rain layer R", interactive=False, buttons=["fullscreen"])
        outputs = [both, facts, download, rain]
        button.click(run, [photograph, chosen, strength], outputs, api_name="derain")
    return page


def serve(page: gradio.Blocks, *, port: int | None, max_bytes: int, wait: bool = True) -> str:
    """Serve the page on this machine only, until it is interrupted.

    Args:
        page: What `build_page` returned.
        port: Where to listen; by default the first free one from 7860.
        max_bytes: Largest upload.
        wait: Return only after an interruption.

    Returns:
        The address.

    Raises:
        InputError: If the port cannot be used.
    """
    # Its default theme would load fonts from the internet.
    theme = gradio.themes.Default(font="system-ui", font_mono="monospace")
    try:
        _, address, _ = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            max_file_size=max_bytes,
            enable_monitoring=False,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
        )
    except OSError as error:
        where = "7860 to 7959" if port is None else str(port)
        raise InputError(f"--port: {where} is in use or not permitted; give another one") from error
    print(f"Open {address} in a browser; Ctrl-C stops it.", flush=True)
    if wait:
        page.block_thread()
    return str(address)


def _derain_file(path: Path, results: Path, max_pixels: int, network: ImageDerainer) -> tuple[Any, ...]:
    """Derain a photograph into a folder; returns the values of the page's outputs."""
    start = time.monotonic()
    photograph = read_photograph(path, max_pixels=max_pixels)
    rainy = photograph.rgb
    derained = network.array(rainy)
    seconds = time.monotonic() - start
    target = results / f"{path.stem}_derained{path.suffix}"
    write_photograph(target, derained, photograph)
    layer = np.clip(to_float(rainy) - to_float(derained), 0, 1)
    [bright], factor = brightened([layer])
    height, width = rainy.shape[:2]
    facts = f"{width} × {height} pixels, {seconds:.1f} s; mean R {layer.mean():.4f}, shown {factor:g} × as bright"
    facts += "".join(f"\n\n{note}" for note in photograph.notes)
    button = gradio.DownloadButton(f"Download {target.name}", value=str(target), interactive=True)
    return (_shown(rainy), _shown(derained)), facts, button, _shown(bright)


def _shown(image: np.ndarray) -> np.ndarray:
    return fit(to_uint8(to_float(image)), SHOWN_SIDE, SHOWN_SIDE, enlarge=False)
