"""Networks that derain, from whatever file or folder holds their weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlcl_plugin.engine.network_file import KINDS, NetworkFile, read_network_file
from nlcl_plugin.engine.onnx_network import load_onnx
from nlcl_plugin.engine.options import load_yaml
from nlcl_plugin.engine.trained_network import build_with_weights, saved_networks
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.any_size import in_parts, infer
from nlcl_plugin.models.padding import run_padded


@dataclass(frozen=True)
class Derainer:
    """A network that takes rain out of images.

    Attributes:
        net: The network, without gradients; in full precision on the CPU when it is loaded.
        about: What it is; see `engine.network_file.describe`.
        source: The file of its weights.
    """

    net: nn.Module
    about: dict[str, Any]
    source: Path

    @property
    def window_size(self) -> int:
        """What sizes that the network itself takes are multiples of."""
        return int(self.about["window_size"])

    @torch.no_grad()
    def __call__(self, rainy: Tensor, *, tell: Callable[[], object] = lambda: None, **how: Any) -> Tensor:
        """Derain; a single image in bounded memory, however large it is.

        Args:
            rainy: Rainy images O (B, 3, H, W), RGB in [0, 1], any size.
            tell: Called after each part of the work, `models.any_size.parts` times.
            **how: `scratch`, `memory` and `say` of `models.any_size.infer`.

        Returns:
            Their image layer B, same shape, not clipped: the network's output, or O - R of a network that makes R.

        Raises:
            InputError: If the network does not keep the shape.
        """
        if len(rainy) == 1 and in_parts(self.net, self.window_size):
            output = infer(self.net, rainy, window=self.window_size, tell=tell, **how)
        else:
            output = run_padded(self._layer, rainy, self.window_size)
            tell()
        derained = rainy - output if self.about["output"] == "rain" else output  # rain may be grey
        if derained.shape != rainy.shape:
            raise self._misfit(output, rainy)
        return derained

    def _layer(self, images: Tensor) -> Tensor:
        output = self.net(images)
        if isinstance(output, Tensor) and output.shape[-2:] == images.shape[-2:]:
            return output
        raise self._misfit(output, images)

    def _misfit(self, output: Any, images: Tensor) -> InputError:
        made = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        return InputError(
            f"{self.source}: {self.about['network']['type']} makes {made} of {tuple(images.shape)}; expected a network "
            "that keeps the shape; give another one"
        )


def load_derainer(path: str | os.PathLike[str], *, label: str | None = None) -> Derainer:
    """Load a network to derain with.

    Args:
        path: A network file (see `read_network_file`), an ONNX file of `tools/export.py`, or the folder of a training:
            then its newest restorer `net_s` if it has a trained one, else its newest `net_g`.
        label: The network to take of a folder (g, r or s), or which a file must be.

    Returns:
        The network, on the CPU. No code from a file is run.

    Raises:
        InputError: If there is none, the file is torn or no network, its architecture is unknown or makes no layer, or
            the weights don't fit.
    """
    path = Path(os.path.expanduser(path))
    if label is not None and label not in ("g", "r", "s"):
        raise InputError(f"label: expected g, r or s, but received {label!r}")
    if path.suffix == ".onnx":
        return Derainer(*load_onnx(path), path)
    file = _newest(path, label) if path.is_dir() else read_network_file(path, label=label)
    about, network = file.about, file.about["network"]["type"]
    if about["output"] is None:
        kind = KINDS.get(about["label"], "no generator")
        raise InputError(f"{file.path}: is {kind} ({network}), which derains nothing; give net_g, net_s or net_r")
    _check_weights(file)
    net = build_with_weights(
        about["network"], file.weights, where=f"the {network} that {file.path.name} is of", source=file.path
    )
    return Derainer(net, about, file.path)


def _check_weights(file: NetworkFile) -> None:
    for name, value in file.weights.items():
        try:
            # torch cannot tell of numbers of 8 bits.
            finite = (value.float() if value.is_floating_point() and value.itemsize == 1 else value).isfinite().all()
        except RuntimeError as error:
            raise InputError(f"{file.path}: {name} is of {value.dtype}; expected numbers, save it again") from error
        if not finite:
            raise InputError(f"{file.path}: holds weights that are not finite; give another checkpoint")


def _newest(folder: Path, label: str | None) -> NetworkFile:
    models = folder / "models" if (folder / "models").is_dir() else folder
    for candidate in [label] if label else ["s", "g"]:
        found = saved_networks(models, candidate)
        if not found:
            continue
        file = _latest(found, candidate)
        if label or candidate != "s" or _is_trained(file, models.parent / "options.yml"):
            return file
    wanted = f"net_{label}_*.pth" if label else "net_g_*.pth or net_s_*.pth"
    raise InputError(f"{models}: holds no {wanted}; train first, or give another folder or a file")


def _latest(found: dict[str, Path], label: str) -> NetworkFile:
    """`latest`, if its training did not go on after it, else the highest iteration; times of files say nothing."""
    numbered = {int(which): path for which, path in found.items() if which.isdecimal()}
    if "latest" in found:
        file = read_network_file(found["latest"], label=label)
        iteration = file.about["iter"]
        if iteration is None or not numbered or iteration >= max(numbered):
            return file
    return read_network_file(numbered[max(numbered)], label=label)


def _is_trained(restorer: NetworkFile, options: Path) -> bool:
    """Whether a restorer's stage had begun when it was saved; until then it is as it was initialised."""
    iteration = restorer.about["iter"]
    train = load_yaml(str(options)).get("train") if options.is_file() else None
    begin = ((train or {}).get("restorer_opt") or {}).get("start_iter")
    return iteration is None or not isinstance(begin, int) or iteration > begin
