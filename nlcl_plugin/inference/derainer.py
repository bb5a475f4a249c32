"""Networks that derain, from whatever file or folder contains their weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.data.image_io import SHORTEST_LIMIT
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.any_size import infer, run_adjusted
from nlcl_plugin.networks.about import KINDS
from nlcl_plugin.networks.network_file import NetworkFile, build_with_weights, read_network_file
from nlcl_plugin.networks.onnx_network import load_onnx
from nlcl_plugin.networks.weights import PACKAGED, best_or_newest, find_weights

# How a network derains unless its file or the caller says otherwise.
PLAIN: dict[str, Any] = {"longest_side": 0, "strength": 1.0, "adaptive": False, "keep_colours": False}
STRONGEST = 10.0  # of `strength`: by then no bright rest is left where the network found rain


class ShapeError(InputError):
    """A network does not keep the shape."""


@dataclass(frozen=True)
class Derainer:
    """A network that takes rain out of images."""

    net: nn.Module  # the network, without gradients; in full precision on the CPU when it is loaded
    about: dict[str, Any]  # what it is; see `networks.about.describe`
    source: Path  # the file of its weights
    longest_side: int = 0  # pixels; the rain of larger images is found in a smaller copy. 0 for no limit
    strength: float = 1.0  # factor in (0, 10] on the rain that is subtracted; see `inference.adaptive.strengthen`
    adaptive: bool = False  # take more where more of an image has rain; see `inference.adaptive`
    keep_colours: bool = False  # subtract R without its low frequencies: colours and brightness of regions stay

    def __post_init__(self) -> None:
        if self.longest_side and self.longest_side < SHORTEST_LIMIT:
            limits = f"0, or at least {SHORTEST_LIMIT} pixels"
            raise InputError(f"longest_side: expected {limits}, but received {self.longest_side}")
        if not 0 < self.strength <= STRONGEST:
            raise InputError(f"strength: expected a number above 0, up to {STRONGEST}, but received {self.strength}")

    @property
    def makes_rain(self) -> bool:
        """Whether the network makes R, and B is what is left."""
        return bool(self.about["output"] == "rain")

    @torch.no_grad()
    def __call__(self, rainy: Tensor) -> Tensor:
        """Derain; a single image in bands or tiles where the network allows it.

        Args:
            rainy: Rainy images O (B, 3, H, W), RGB in [0, 1], any size.

        Returns:
            Their image layer B, same shape, not clipped.

        Raises:
            ShapeError: If the network does not keep the shape.
            InputError: If it fails on this size.
        """
        output = self._output(rainy)
        return rainy - output if self.makes_rain else output

    @torch.no_grad()
    def rain(self, rainy: Tensor) -> Tensor:
        """The rain layer (B, 1 or 3, H, W) of rainy images in the same way: what `__call__` subtracts."""
        output = self._output(rainy)
        return output if self.makes_rain else rainy - output

    def _output(self, rainy: Tensor) -> Tensor:
        settings = {key: getattr(self, key) for key in PLAIN}
        return run_adjusted(self._output_at, rainy, makes_rain=self.makes_rain, **settings)

    def _output_at(self, rainy: Tensor) -> Tensor:
        try:
            output = infer(self.net, rainy, window=self.about["window_size"])
        except (RuntimeError, ValueError, TypeError, AssertionError, MemoryError) as error:  # such as too little memory
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{self.source}: the network fails on {tuple(rainy.shape)} ({reason})") from error
        if output.shape != rainy.shape and not (self.makes_rain and output.shape == rainy[:, :1].shape):
            raise ShapeError(
                f"{self.source}: {self.about['network']['type']} makes {tuple(output.shape)} of {tuple(rainy.shape)}; "
                "expected a network that keeps the shape; give another one"
            )
        return output


def load_derainer(
    path: str | os.PathLike[str],
    *,
    label: str | None = None,
    order: tuple[str, ...] = ("s", "g"),
    take_newest: bool = False,
    longest_side: int | None = None,
    strength: float | None = None,
    adaptive: bool | None = None,
    keep_colours: bool | None = None,
) -> Derainer:
    """Load a network to derain with.

    Args:
        path: A network file (see `read_network_file`), an ONNX file of `basicsr export`, the folder of a training, of
            which the best network in validation is taken (see `networks.weights.best_or_newest`), or a name of
            `PACKAGED`, unless there is such a file or folder.
        label: The network it must be (g, r or s).
        order: Without a label: which of several to take, the first one that is there and was trained. By default the
            restorer, else `net_g`.
        take_newest: Of a folder, take the newest network in any case.
        longest_side: As in `Derainer`; by default what the weights say, and so for the other three.
        strength: As in `Derainer`.
        adaptive: As in `Derainer`.
        keep_colours: As in `Derainer`.

    Returns:
        The network, on the CPU. No code from a file is run.

    Raises:
        InputError: If there is none, the file is damaged or no network, its architecture is unknown or makes no layer,
            the weights don't fit, or a setting is out of range.
    """
    wanted = dict(zip(PLAIN, (longest_side, strength, adaptive, keep_colours), strict=True))
    asked = {key: value for key, value in wanted.items() if value is not None}
    path = find_weights(path)
    if not path.exists():
        names = " or ".join(PACKAGED)
        raise InputError(f"{path}: no such file or folder; give a network file, the folder of a training, or {names}")
    if path.suffix == ".onnx":
        graph, about = load_onnx(path)
        return Derainer(graph, about, path, **{**_noted(about), **asked})
    last = path / "last_checkpoint"  # names it, in a work folder of MMEngine
    if last.is_file():
        path /= Path(last.read_text(encoding="utf-8", errors="replace").strip()).name
    if path.is_dir():
        file = _of_folder(path, (label,) if label else order, take_newest)
    else:
        file = read_network_file(path, label=label, order=order)
    about, network = file.about, file.about["network"]["type"]
    if about["output"] is None:
        kind = KINDS.get(about["label"], "no generator")
        raise InputError(f"{file.path}: is {kind} ({network}), which derains nothing; give net_g, net_s or net_r")
    where = f"the {network} that {file.path.name} is of"
    net = build_with_weights(about["network"], file.weights, where=where, source=file.path)
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise InputError(f"{file.path}: contains weights that are not finite; give another checkpoint")
    return Derainer(net, about, file.path, **{**_noted(about), **asked})


def _noted(about: dict[str, Any]) -> dict[str, Any]:
    return {key: about[key] for key in PLAIN if key in about}


def _of_folder(folder: Path, labels: tuple[str, ...], take_newest: bool) -> NetworkFile:
    models = folder / "models" if (folder / "models").is_dir() else folder
    for label in labels:
        path = best_or_newest(models, label, take_newest=take_newest)
        if path is not None:
            file = read_network_file(path, label=label)
            if label != "s" or len(labels) == 1 or _is_trained(file, models.parent / "options.yml"):
                return file
    wanted = " or ".join(f"net_{label}_*.pth" for label in labels)
    raise InputError(f"{models}: contains no {wanted}; train first, or give another folder or a file")


def _is_trained(restorer: NetworkFile, options: Path) -> bool:
    """Whether a restorer's stage had begun when it was saved; until then it is as it was initialised."""
    iteration = restorer.about["iter"]
    train = load_yaml(str(options)).get("train") if options.is_file() else None
    begin = ((train or {}).get("restorer_opt") or {}).get("start_iter")
    return iteration is None or not isinstance(begin, int) or iteration > begin
