"""The trained network that says which rain an image has, outside of a training."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nlcl_plugin.data.files import sha256
from nlcl_plugin.data.image_io import to_tensor
from nlcl_plugin.engine.trained_network import experiment_options, load_network, saved_networks
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.padding import run_padded
from nlcl_plugin.models.unpaired_iteration import DECOMPOSITIONS

_EQUAL = 1e-4  # channels that differ by less, in [0, 1], are one grey: O - B has rounding errors


@dataclass(frozen=True)
class Checkpoint:
    """Where the rain of an experiment can be had.

    Attributes:
        options: Its options.
        weights: The weights of the network that is asked for rain: `net_r` of a two_branch model, else `net_g`.
    """

    options: dict[str, Any]
    weights: Path


def rain_label(options: dict[str, Any]) -> str:
    """The label of the network that is asked for rain.

    Args:
        options: Options of a training.

    Returns:
        `r` for `decomposition: two_branch`, where it puts out R; else `g`, which puts out B, and R = O - B.

    Raises:
        InputError: If the decomposition is unknown, or the options have no such network.
    """
    decomposition = options.get("decomposition", "residual")
    if decomposition not in DECOMPOSITIONS:
        raise InputError(f"decomposition: expected one of {', '.join(DECOMPOSITIONS)}, but received {decomposition!r}")
    label = "r" if decomposition == "two_branch" else "g"
    if not isinstance(options.get(f"network_{label}"), dict):
        raise InputError(f"network_{label}: expected a block, as the rain layer comes from it; give other options")
    return label


def find_checkpoint(experiment: str | os.PathLike[str], which: str = "latest") -> Checkpoint:
    """Find the options and the weights in the folder of a training.

    Args:
        experiment: The folder, such as `experiments/nlcl_quickstart`.
        which: An iteration, or `latest` for what was written last.

    Returns:
        What is there.

    Raises:
        InputError: If there are no options or no such weights.
    """
    folder, options = experiment_options(experiment)
    label = rain_label(options)
    found = saved_networks(folder / "models", label)
    if not found:
        raise InputError(f"{folder / 'models'}: holds no net_{label}_*.pth; train first, or give another folder")
    if which == "latest":
        return Checkpoint(options, max(found.values(), key=lambda path: (path.stat().st_mtime_ns, path.name)))
    if which not in found:
        there = ", ".join(sorted(found, key=lambda tag: (len(tag), tag)))
        raise InputError(f"{folder / 'models'}: no net_{label}_{which}.pth, but of {there}; correct --checkpoint")
    return Checkpoint(options, found[which])


class RainNetwork:
    """Takes the rain layer out of images.

    Args:
        checkpoint: Options and weights; the moving average where the file has one.

    Raises:
        InputError: If the network is unknown, or the weights are not its own.

    Attributes:
        identity: What decides the result, as plain values.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._label = rain_label(checkpoint.options)
        block = checkpoint.options[f"network_{self._label}"]
        # On the GPU where the training was on one too, and one is there.
        gpu = torch.cuda.is_available() and checkpoint.options.get("num_gpu") != 0
        self._device = torch.device("cuda" if gpu else "cpu")
        self._window = block.get("window_size", 1)
        self._net = load_network(checkpoint.options, self._label, checkpoint.weights).to(self._device)
        self.identity = {
            "decomposition": "two_branch" if self._label == "r" else "residual",
            f"network_{self._label}": block,
            "weights_sha256": sha256(checkpoint.weights),
        }

    def rain_of(self, image: np.ndarray, source: str) -> np.ndarray:
        """Extract the rain layer of a whole image.

        Args:
            image: The rainy image O (H, W, 3), RGB, of uint8, uint16 or floats in [0, 1].
            source: Its name, for messages.

        Returns:
            R, clipped to [0, 1] and made 8-bit: (H, W) if it is grey, else (H, W, 3).

        Raises:
            InputError: If the network cannot take it, or its output has another size or is not finite.
        """
        rainy = to_tensor(image)[None].to(self._device)
        try:
            with torch.no_grad():  # here, as it holds for one thread
                output = run_padded(self._run, rainy, self._window)
        except RuntimeError as error:  # for example more memory than there is
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{source}: the network fails on {tuple(image.shape[:2])} pixels ({reason})") from error
        rain = (output if self._label == "r" else rainy - output)[0].float()
        if not torch.isfinite(rain).all():
            raise InputError(f"{source}: the network's output is not finite; give another checkpoint")
        if float((rain.amax(dim=0) - rain.amin(dim=0)).max()) < _EQUAL:
            rain = rain.mean(dim=0, keepdim=True)
        pixels = (rain.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)

    def _run(self, images: Tensor) -> Tensor:
        output: Tensor = self._net(images)
        if output.shape[-2:] != images.shape[-2:]:
            sizes = f"{tuple(output.shape[-2:])} of {tuple(images.shape[-2:])}"
            raise InputError(f"the network makes {sizes} pixels; rain layers need a network that keeps the size")
        return output
