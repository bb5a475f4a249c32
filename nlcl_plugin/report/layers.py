"""The layers into which the networks of a training split a few images."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from basicsr.data import build_dataset
from torch import Tensor

from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.networks.network_file import NetworkFile, read_network_file
from nlcl_plugin.networks.weights import best_or_newest, saved_networks
from nlcl_plugin.report.experiment import Experiment, block
from nlcl_plugin.training.loaders import ExplainedDataset

MAX_SIDE = 1024  # pixels; only the middle of a larger image is shown, as a CPU takes minutes for it


class StageLayers(NamedTuple):
    """The layers of an image by one stage."""

    stage: str  # `stage 1`, `restorer`, or the model's type
    image: Tensor  # B, (3, H, W) in [0, 1]
    rain: Tensor  # R, (1 or 3, H, W); O - B where no network makes it
    own_rain: bool  # whether R comes from a network of its own, so that B + R may differ from O


class Example(NamedTuple):
    """An image with its layers."""

    name: str  # within its folder
    rainy: Tensor  # O, (3, H, W) in [0, 1]
    clean: Tensor | None  # ground truth, where there is any of this size
    layers: list[StageLayers]  # of each stage; those of the last one are the result
    cut: bool  # whether it is the middle of a larger image


class TrainedStages:
    """The networks of an experiment, of an iteration, `latest`, or by default those that were best in validation.

    Without a validation those are the newest. An `InputError` if there are none that fit.
    """

    def __init__(self, experiment: Experiment, which: str | None = None) -> None:
        options, models = experiment.options, experiment.folder / "models"
        found = _find(models, which)
        self.which = found.path.stem.rpartition("_")[2]
        iteration = int(self.which) if self.which.isdecimal() else found.about["iter"] or experiment.total_iter
        start = block(options, "train", "restorer_opt").get("start_iter")
        kind = str(options.get("model_type", "network"))
        self._stages = {"g": "stage 1" if kind == "NLCLModel" else kind} if found.about["label"] == "g" else {}
        if isinstance(start, int) and iteration is not None and iteration > start:
            self._stages["s"] = "restorer"
        self._own_rain = options.get("decomposition") == "two_branch"
        device = "cpu" if options.get("num_gpu") == 0 else "auto"
        self._networks = {
            label: ImageDerainer(models / f"net_{label}_{self.which}.pth", label=label, device=device)
            for label in [*self._stages, *(["r"] if self._own_rain else [])]
        }
        derainers = [network.derainer for network in self._networks.values()]
        self.need_whole = any(one.longest_side or one.adaptive or one.keep_colours for one in derainers)

    def split(self, rainy: Tensor) -> list[StageLayers]:
        """Split an image O (3, H, W) into the layers of each stage; networks that fail raise an `InputError`."""
        rest = {label: network.rain(rainy[None])[0] for label, network in self._networks.items()}
        own = {"g": rest["r"]} if self._own_rain else {}
        return [
            StageLayers(stage, rainy - rest[label], own.get(label, rest[label]), label in own)
            for label, stage in self._stages.items()
        ]


def image_sets(options: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Options of datasets by name: those of validation, and the rainy images of training if they have no pairs."""
    datasets = {key: value for key, value in block(options, "datasets").items() if isinstance(value, dict)}
    chosen = {key: value for key, value in datasets.items() if key.split("_")[0] == "val"}
    train = datasets.get("train", {})
    if train and (not chosen or train.get("type") == "UnpairedImageDataset"):
        kept = {key: train[key] for key in ("dataroot_lq", "io_backend") if key in train}
        chosen["train"] = {**kept, "type": "UnpairedImageDataset", "phase": "val", "name": "training images"}
    return {str(value.get("name", key)): value for key, value in chosen.items()}


def split_examples(stages: TrainedStages, options: dict[str, Any], most: int) -> Iterator[Example]:
    """Split at most so many images of a dataset, evenly spread over it; an InputError if that is not possible."""
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
        yield split_example(stages, sample, options.get("dataroot_lq"))


def split_example(stages: TrainedStages, sample: dict[str, Any], root: str | None) -> Example:
    """Split the image of a sample: `lq`, `lq_path` and, where there is ground truth, `gt`; `root` is its folder."""
    path = Path(str(sample.get("lq_path", "image")))
    rainy, clean = sample.get("lq"), sample.get("gt")
    if not isinstance(rainy, Tensor) or rainy.ndim != 3:
        raise InputError("gives no image `lq` (3, H, W), as a dataset of videos or of clean images does")
    size = rainy.shape[-2:]
    rows, columns = (slice((side - min(side, MAX_SIDE)) // 2, (side + min(side, MAX_SIDE)) // 2) for side in size)
    if not stages.need_whole:
        rainy = rainy[..., rows, columns]
    found = stages.split(rainy)
    if stages.need_whole:  # a part would be derained otherwise
        rainy = rainy[..., rows, columns]
        found = [one._replace(image=one.image[..., rows, columns], rain=one.rain[..., rows, columns]) for one in found]
    clean = clean[..., rows, columns] if clean is not None and clean.shape[-2:] == size else None
    name = path.relative_to(root) if root is not None and path.is_relative_to(root) else path.name
    return Example(str(name), rainy, clean, found, cut=rainy.shape[-2:] != size)


def _find(models: Path, which: str | None) -> NetworkFile:
    label = next((label for label in ("g", "s") if saved_networks(models, label)), "g")  # without stage 1 only s
    found = saved_networks(models, label)
    path = best_or_newest(models, label) if which is None else found.get(which)
    if path is None and found:
        there = ", ".join(sorted(found, key=lambda tag: (len(tag), tag)))
        raise InputError(f"{models}: no net_{label}_{which}.pth, but of {there}; correct --checkpoint")
    if path is None:
        raise InputError(f"{models}: contains no net_g_*.pth or net_s_*.pth yet")
    return read_network_file(path, label=label)
