"""The unpaired deraining model in MMEngine: the iteration of `NLCLModel` behind `train_step`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.registry import MODELS
from pydantic import ValidationError
from torch import Tensor, nn

from nlcl_plugin.config.train_options import UnpairedOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.any_size import run_padded
from nlcl_plugin.mm.optim import WrapperStepper
from nlcl_plugin.models.initial_weights import own_random_stream
from nlcl_plugin.models.layer_embeddings import LayerEmbeddings
from nlcl_plugin.models.unpaired_iteration import UnpairedIteration, bare, needed_nets
from nlcl_plugin.networks.about import describe
from nlcl_plugin.networks.weights import weights_of

# Arguments of NLCLDerain, and attributes, by the labels that the iteration uses.
NAMES = {"g": "generator", "r": "rain_generator", "d": "discriminator", "p": "heads", "s": "restorer"}
OPTIMIZERS = {"generator": "g", "discriminator": "d", "heads": "p", "restorer": "s"}


class UnitRangePreprocessor(BaseDataPreprocessor):
    """Brings a batch to the device as the networks want it: RGB, (B, 3, H, W), float in [0, 1].

    Args:
        bgr_to_rgb: Whether the images come as BGR.
        **kwargs: Arguments of `BaseDataPreprocessor`.
    """

    def __init__(self, bgr_to_rgb: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bgr_to_rgb = bgr_to_rgb

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Convert `lq` and `gt`: batches or lists (of MMEngine's `pseudo_collate`), uint8 or float in [0, 1].

        Args:
            data: A batch. Images of lists are tensors (3, H, W) or, as transforms make them, arrays (H, W, 3).
            training: Whether it is one to learn from; then `lq` and `gt` must be there.

        Raises:
            InputError: If images are missing or no batch can be made of them.
        """
        missing = ({"lq", "gt"} if training else {"lq"}) - set(data)
        if missing:
            raise InputError(
                f"the dataset gives {', '.join(map(str, data))}, but NLCLDerain needs lq (rainy images)"
                f"{' and gt (clean ones of other scenes)' if training else ''}"
            )
        batch = dict(data)
        for key in [name for name in ("lq", "gt") if name in batch]:
            images = batch[key] if isinstance(batch[key], Tensor) else _stacked(key, batch[key])
            images = self.cast_data(images)
            images = images.float() / 255 if images.dtype == torch.uint8 else images
            batch[key] = images.flip(1) if self.bgr_to_rgb else images
        return batch


class NLCLDerain(BaseModel):
    """`NLCLModel` for MMEngine's Runner: the same losses, stages, averages and order of steps.

    Networks that no loss needs may be given and are not built. Under several processes each network is wrapped by
    itself: `model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')`. Optimizers come from
    `NLCLOptimWrapperConstructor`.

    Args:
        train_cfg: Losses and stages: an `UnpairedOptions`, which is the `train` block of BasicSR's option files without
            optimizers, schedule and precision.
        generator: Config of the network from O to B.
        rain_generator: Config of the network from O to R, for `two_branch`.
        discriminator: Config of the discriminator, for `gan_opt`.
        heads: Config of the projection heads, for contrastive losses; `in_channels` is filled in.
        restorer: Config of the restorer, for `restorer_opt`.
        decomposition: `residual` or `two_branch`.
        seed: The seed of the initial weights and of all that an iteration draws.
        data_preprocessor: `UnitRangePreprocessor` by default.

    Raises:
        InputError: If the options don't fit together.
    """

    progress: Tensor

    def __init__(
        self,
        train_cfg: dict[str, Any],
        generator: dict[str, Any],
        rain_generator: dict[str, Any] | None = None,
        discriminator: dict[str, Any] | None = None,
        heads: dict[str, Any] | None = None,
        restorer: dict[str, Any] | None = None,
        decomposition: str = "residual",
        seed: int = 0,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor or {"type": "UnitRangePreprocessor"})
        self.options = _checked(train_cfg)
        given = {"g": generator, "r": rain_generator, "d": discriminator, "p": heads, "s": restorer}
        nets: dict[str, nn.Module] = {}
        for label in needed_nets(self.options, decomposition):
            network = given[label]
            if network is None:
                raise InputError(f"model.{NAMES[label]} is missing: train_cfg or decomposition need this network")
            extra = {"in_channels": LayerEmbeddings.in_channels(self.options, nets)} if label == "p" else {}
            with own_random_stream(seed, label):
                nets[label] = MODELS.build({**network, **extra})
            setattr(self, NAMES[label], nets[label])
        self._configs = given
        averages: dict[str, nn.Module] = {}
        for label in ("g", "r", "s") if self.options.ema_decay > 0 else ():
            if label in nets:
                averages[label] = copy.deepcopy(nets[label]).eval().requires_grad_(False)
                setattr(self, f"average_{NAMES[label]}", averages[label])
        if self.options.restorer_opt and self.options.restorer_opt.rounds:
            averages["t"] = self.rain_restorer = copy.deepcopy(nets["s"]).eval().requires_grad_(False)
        self._tried = False
        self.criteria = nn.ModuleList()  # here, so that they come along to the device
        rank, processes = get_dist_info()
        self.iteration = UnpairedIteration(
            self.options,
            nets,
            averages,
            self._build_loss,
            seed=seed,
            rank=rank,
            processes=processes,
            logger=MMLogger.get_current_instance,
        )
        # Iterations taken, running mean of |R| (NaN at first), steps left out: a checkpoint knows its stage.
        self.register_buffer("progress", torch.tensor([0.0, math.nan, 0.0]))
        self.register_load_state_dict_pre_hook(self._average_as_network)

    def _build_loss(self, options: dict[str, Any]) -> nn.Module:
        self.criteria.append(MODELS.build(options))
        return self.criteria[-1]

    def start_at(self, iteration: int) -> None:
        """Begin a training: of what is resumed, its iterations count on; of what `load_from` loaded, none.

        Args:
            iteration: Iterations taken.
        """
        if int(self.progress[0]) != iteration:
            self.progress.copy_(torch.tensor([iteration, math.nan, 0.0]))

    def train_step(self, data: dict[str, Any], optim_wrapper: OptimWrapperDict) -> dict[str, float]:
        """Take one optimizer step of the current stage.

        Args:
            data: `lq` rainy images, `gt` clean images of other scenes, `lq_path`.
            optim_wrapper: Of `NLCLOptimWrapperConstructor`.

        Returns:
            The losses, their mean over all processes.

        Raises:
            InputError: If images don't fit the networks, or each other.
            TrainingStoppedError: If a loss or gradient is not finite, or the rain layer stays empty.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict):
            raise InputError("optim_wrapper.constructor is missing: set it to 'NLCLOptimWrapperConstructor'")
        batch = self.data_preprocessor(data, True)
        for label in self.iteration.nets:
            self.iteration.nets[label] = getattr(self, NAMES[label])  # wrapped by now, in distributed training
        taken, mean_rain, skipped = self.progress.tolist()
        self.iteration.mean_rain = None if math.isnan(mean_rain) else mean_rain
        self.iteration.skipped_steps = int(skipped)
        size = "×".join(map(str, batch["lq"].shape[-2:]))
        try:
            if not self._tried:
                self._try(batch["lq"], batch["gt"])
            log = self.iteration(
                batch["lq"],
                batch["gt"],
                batch.get("lq_path", []),
                int(taken) + 1,
                {OPTIMIZERS[name]: wrapper for name, wrapper in optim_wrapper.items()},
                WrapperStepper(optim_wrapper, self),
            )
        except ValueError as error:  # of networks, losses and searches that images are too small for
            if isinstance(error, InputError):
                raise
            raise InputError(f"model, with images of {size} pixels: {error}") from error
        mean_rain = math.nan if self.iteration.mean_rain is None else self.iteration.mean_rain
        self.progress.copy_(torch.tensor([taken + 1, mean_rain, self.iteration.skipped_steps]))
        return dict(log) if log is not None else {"skipped_steps": float(self.iteration.skipped_steps)}

    @torch.no_grad()
    def _try(self, rainy: Tensor, clean: Tensor) -> None:
        """Find out before the first iteration what would otherwise end stage 2, hours later."""
        self._tried = True
        if rainy.shape != clean.shape:
            raise InputError(
                f"lq {tuple(rainy.shape)} and gt {tuple(clean.shape)} must have one shape; crop both alike"
            )
        if "s" in self.iteration.nets:
            restorer = bare(self.iteration.nets["s"])
            restorer.eval()
            try:
                output = restorer(rainy)
            except (RuntimeError, TypeError, ValueError) as error:
                raise InputError(f"model.restorer: {error}") from error
            finally:
                restorer.train()
            if getattr(output, "shape", None) != rainy.shape:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise InputError(
                    f"model.restorer: makes {shape} of images {tuple(rainy.shape)}, but must keep their shape: "
                    "use scale or upscale 1 and as many channels out as in"
                )

    def forward(self, lq: Tensor, mode: str = "tensor", **data: Any) -> Any:
        """Derain images; `val_step` and `test_step` come here.

        Args:
            lq: Rainy images (B, 3, H, W), RGB in [0, 1].
            mode: `tensor` for the derained images alone, `predict` for a dict an image.
            **data: What else the batch holds; goes into the dicts.

        Returns:
            The derained images; or a list with `lq`, `result`, `rain` and the batch's `gt` and paths, an image each.

        Raises:
            ValueError: If the mode is another, as losses need several optimizers.
        """
        if mode not in ("tensor", "predict"):
            raise ValueError(f"mode must be tensor or predict, but received {mode!r}; train_step computes the losses")
        restoring = self.options.restores(int(self.progress[0]))
        label = "s" if restoring else "g"
        # Networks of windowed attention name their window by this argument.
        multiple = int((self._configs[label] or {}).get("window_size", 1))
        result = run_padded(self.iteration.steady(label), lq, multiple)
        if mode == "tensor":
            return result
        two = "r" in self.iteration.nets and not restoring
        batch = {"lq": lq, "result": result, "rain": self.iteration.steady("r")(lq) if two else lq - result, **data}
        return [
            {
                key: value[place].detach().cpu() if isinstance(value, Tensor) else value[place]
                for key, value in batch.items()
            }
            for place in range(lq.shape[0])
        ]

    def about(self) -> dict[str, dict[str, Any]]:
        """Say what the networks are that derain, for whoever reads a checkpoint; a restorer when it is being trained.

        Returns:
            What `networks.about.describe` says, by what the names of the weights to infer with begin with.
        """
        taken = int(self.progress[0])
        found = {}
        for label in [label for label in ("g", "r", "s") if label in self.iteration.nets]:
            if label != "s" or self.options.restores(taken):
                net = bare(self.iteration.nets[label])
                average = "average_" if label in self.iteration.averages else ""
                network = {**(self._configs[label] or {}), "type": type(net).__name__}
                found[average + NAMES[label]] = describe(network, label, net=net, iteration=taken)
        return found

    def weights_from(self, content: dict[str, Any], path: Path) -> dict[str, Tensor]:
        """Take the weights of one network, and of its average, out of a network file such as `net_g_latest.pth`.

        Args:
            content: What the file holds. What is not said there to be another network is the generator.
            path: The file, for messages.

        Returns:
            The weights by their names in this model.

        Raises:
            InputError: If the file holds no weights, or those of a network that this model lacks.
        """
        about = content.get("about")
        label = about["label"] if isinstance(about, dict) and about.get("label") in NAMES else "g"
        if label not in self.iteration.nets:
            raise InputError(f"{path}: is net_{label}, but this model has no {NAMES[label]}; give another file")
        found = {NAMES[label]: weights_of(content, path, "params")}
        if label in self.iteration.averages:
            found[f"average_{NAMES[label]}"] = weights_of(content, path)
        return {f"{name}.{key}": value for name, weights in found.items() for key, value in weights.items()}

    def _average_as_network(self, _module: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
        """Before loading: an average that a checkpoint lacks begins as its network."""
        for label in set(self.iteration.averages) & set(NAMES):
            name, average = f"{NAMES[label]}.", f"average_{NAMES[label]}."
            if not any(key.startswith(average) for key in state_dict):
                own = {key: value for key, value in state_dict.items() if key.startswith(name)}
                state_dict.update({average + key.removeprefix(name): value for key, value in own.items()})

    def train(self, mode: bool = True) -> NLCLDerain:
        """Switch the networks; averages only infer."""
        super().train(mode)
        for average in self.iteration.averages.values():
            average.eval()
        return self


def _stacked(key: str, images: Any) -> Tensor:
    """A batch (B, 3, H, W) of images."""
    tensors = [
        torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if isinstance(image, np.ndarray) and image.ndim == 3
        else image
        for image in images
    ]
    shapes = {tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__ for image in tensors}
    if len(shapes) != 1 or not isinstance(tensors[0], Tensor):
        raise InputError(
            f"{key}: expected images of one size, tensors (3, H, W) or arrays (H, W, 3), but received "
            f"{', '.join(map(str, sorted(shapes, key=str)))}; crop training images in the dataset"
        )
    return torch.stack(tensors)


def _checked(train_cfg: Mapping[str, Any]) -> UnpairedOptions:
    try:
        return UnpairedOptions.model_validate(_plain(train_cfg))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in ("model.train_cfg", *first["loc"]))
        if first["type"] == "extra_forbidden":
            raise InputError(f"{where}: unknown option") from error
        raise InputError(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error


def _plain(value: Any) -> Any:
    """A config as plain dicts and lists."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value
