"""What the networks of a training make of a few images: the layers of each stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from basicsr.data import build_dataset
from torch import Tensor, nn

from nlcl_plugin.engine.checkpoint import newest, saved_networks
from nlcl_plugin.engine.loading import ExplainedDataset
from nlcl_plugin.engine.network_file import NetworkFile, read_network_file
from nlcl_plugin.engine.report.experiment import Experiment, block
from nlcl_plugin.engine.trained_network import load_network
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.padding import run_padded

MAX_PIXELS = 2**20  # of an image that goes through the networks; of a larger one the middle, as networks take minutes


@dataclass(frozen=True)
class Layers:
    """What one stage makes of an image.

    Attributes:
        stage: `stage 1`, `restorer`, or the model's type.
        image: Image layer B, (3, H, W) in [0, 1].
        rain: Rain layer R, (1 or 3, H, W); O - B where no network makes it.
        own_rain: Whether a network of its own makes R, so that B + R may differ from O.
    """

    stage: str
    image: Tensor
    rain: Tensor
    own_rain: bool


@dataclass(frozen=True)
class Example:
    """An image with its layers.

    Attributes:
        name: Of the image, within its folder.
        rainy: O, (3, H, W) in [0, 1]; of networks that enlarge, as large as what they make.
        clean: Ground truth, where there is any.
        layers: Of each stage; the last one derains.
        cut: Whether it is the middle of a larger image.
        scale: How many times O was enlarged.
    """

    name: str
    rainy: Tensor
    clean: Tensor | None
    layers: list[Layers]
    cut: bool
    scale: int = 1


class TrainedStages:
    """The networks of an experiment, as they split an image.

    Args:
        experiment: The experiment.
        which: An iteration, or `latest` for what was written last.

    Raises:
        InputError: If there are no such weights, or they don't fit the options.

    Attributes:
        which: The iteration of the weights, or `latest`.
        scale: How many times as large as its input what they make is.
    """

    def __init__(self, experiment: Experiment, which: str = "latest") -> None:
        self._options = experiment.options
        scale = self._options.get("scale", 1)
        self.scale = max(1, scale) if isinstance(scale, int) else 1
        found = _find(experiment.folder / "models", which)
        self.which = found.path.stem.rpartition("_")[2]
        iteration = int(self.which) if self.which.isdecimal() else found.about["iter"] or experiment.total_iter
        start = block(self._options, "train", "restorer_opt").get("start_iter")
        kind = str(self._options.get("model_type", "network"))
        self._first = "stage 1" if kind == "NLCLModel" else kind
        labels = ["g"]
        labels += ["r"] if self._options.get("decomposition") == "two_branch" else []
        labels += ["s"] if isinstance(start, int) and iteration is not None and iteration > start else []
        gpu = torch.cuda.is_available() and self._options.get("num_gpu") != 0
        self._device = torch.device("cuda" if gpu else "cpu")
        models = experiment.folder / "models"
        self._nets = {
            label: load_network(self._options, label, models / f"net_{label}_{self.which}.pth").to(self._device)
            for label in labels
        }

    @torch.no_grad()
    def split(self, rainy: Tensor) -> list[Layers]:
        """Split an image O (3, H, W) into the layers of each stage.

        Raises:
            InputError: If a network fails on it.
        """
        image, rain = self._run("g", rainy), self._run("r", rainy) if "r" in self._nets else None
        whole = enlarged(rainy, image)
        found = [Layers(self._first, image, whole - image if rain is None else rain, rain is not None)]
        if "s" in self._nets:
            restored = self._run("s", rainy)
            found.append(Layers("restorer", restored, whole - restored, own_rain=False))
        return found

    def _run(self, label: str, rainy: Tensor) -> Tensor:
        window = block(self._options, f"network_{label}").get("window_size", 1)
        multiple = window if isinstance(window, int) else 1
        net: nn.Module = self._nets[label]
        try:
            output = run_padded(net, rainy[None].to(self._device), multiple, self.scale)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"net_{label} fails on {tuple(rainy.shape[1:])} pixels ({reason})") from error
        if label != "r" and output.shape[1] != rainy.shape[0]:
            raise InputError(f"net_{label} makes {tuple(output.shape[1:])} of {tuple(rainy.shape)}, which is no image")
        return torch.nan_to_num(output[0].float().cpu())


def enlarged(rainy: Tensor, like: Tensor) -> Tensor:
    """O (3, H, W) at the size of what a network makes of it, as layer contrast takes it (bicubic)."""
    if rainy.shape[-2:] == like.shape[-2:]:
        return rainy
    return F.interpolate(rainy[None], size=like.shape[-2:], mode="bicubic", align_corners=False)[0]


def image_sets(options: dict[str, Any]) -> dict[str, Callable[[int], Iterator[dict[str, Any]]]]:
    """Where a report takes its images from: the validation datasets or, without any, the rainy images of training.

    Args:
        options: Options of a training.

    Returns:
        By name: a function that loads so many samples, evenly spread, and raises an `InputError` if it can't.
    """
    datasets = block(options, "datasets")
    chosen = {key: value for key, value in datasets.items() if key.split("_")[0] == "val" and isinstance(value, dict)}
    if not chosen and isinstance(datasets.get("train"), dict):
        rainy = {"type": "UnpairedImageDataset", "phase": "val", "name": "training images"}
        kept = {key: datasets["train"][key] for key in ("dataroot_lq", "io_backend") if key in datasets["train"]}
        chosen = {"train": {**kept, **rainy}}
    return {str(value.get("name", key)): _samples(value) for key, value in chosen.items()}


def example(stages: TrainedStages, sample: dict[str, Any], root: str | None) -> Example:
    """Split the image of a sample.

    Args:
        stages: The networks.
        sample: `lq`, `lq_path` and, where there is ground truth, `gt`.
        root: Its folder.

    Raises:
        InputError: If it holds no image, or a network fails on it.
    """
    path = str(sample.get("lq_path", "image"))
    if getattr(sample.get("lq"), "ndim", 0) != 3:
        raise InputError("gives no image `lq` (3, H, W), as a dataset of videos or of clean images does")
    rainy, clean = sample["lq"], sample.get("gt")
    size = rainy.shape[-2:]
    middle = _middle(size, MAX_PIXELS // stages.scale**2)  # of what comes out, which is what takes memory
    rainy = rainy[..., middle[0], middle[1]]
    cut = rainy.shape[-2:] != size
    if cut and clean is not None:
        fits = clean.shape[-2:] == tuple(stages.scale * side for side in size)
        rows, columns = (slice(stages.scale * one.start, stages.scale * one.stop) for one in middle)
        clean = clean[..., rows, columns] if fits else None
    inside = root is not None and Path(path).is_relative_to(root)
    name = str(Path(path).relative_to(str(root))) if inside else Path(path).name
    layers = stages.split(rainy)
    return Example(name, enlarged(rainy, layers[-1].image), clean, layers, cut, stages.scale)


def _samples(options: dict[str, Any]) -> Callable[[int], Iterator[dict[str, Any]]]:
    def load(most: int) -> Iterator[dict[str, Any]]:
        try:
            dataset = ExplainedDataset(build_dataset(deepcopy(options)))
        except Exception as error:  # a dataset may raise anything on options that it was not made for
            raise InputError(f"cannot be opened ({type(error).__name__}: {' '.join(str(error).split())})") from error
        count = min(most, len(dataset))
        for place in range(count):
            index = place * (len(dataset) - 1) // max(1, count - 1)
            try:
                sample = dataset[index]
            except (OSError, AttributeError) as error:
                raise InputError(f"image {index} cannot be read ({' '.join(str(error).split())})") from error
            yield {**sample, "root": options.get("dataroot_lq")}

    return load


def _find(models: Path, which: str) -> NetworkFile:
    found = saved_networks(models, "g")
    if not found:
        raise InputError(f"{models}: holds no net_g_*.pth yet")
    if which == "latest":
        return read_network_file(newest(found), label="g")
    if which not in found:
        there = ", ".join(sorted(found, key=lambda tag: (len(tag), tag)))
        raise InputError(f"{models}: no net_g_{which}.pth, but of {there}; correct --checkpoint")
    return read_network_file(found[which], label="g")


def _middle(size: tuple[int, ...], most: int) -> tuple[slice, slice]:
    """Rows and columns of the middle of an image, of so many pixels at most; of all of it, if it is no larger."""
    height, width = size
    if height * width <= most:
        return slice(0, height), slice(0, width)
    side = int(most**0.5)
    rows, columns = min(height, most // min(width, side)), min(width, most // min(height, side))
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)
