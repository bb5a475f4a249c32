"""The unpaired deraining model in MMEngine: the iteration of `NLCLModel` behind `train_step`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.dist import get_dist_info
from mmengine.logging import MMLogger
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.optim import OptimWrapperDict
from mmengine.registry import MODELS
from torch import Tensor, nn

from nlcl_plugin.config.schema import check_schema
from nlcl_plugin.config.train_options import UnpairedOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.any_size import run_padded
from nlcl_plugin.mm.optim import WrapperStepper
from nlcl_plugin.models.layer_embeddings import LayerEmbeddings
from nlcl_plugin.models.optimization import frozen_copy, own_random_stream
from nlcl_plugin.models.unpaired_iteration import UnpairedIteration, bare, needed_nets
from nlcl_plugin.networks.about import describe
from nlcl_plugin.networks.weights import weights_of
from nlcl_plugin.rain.batch_random import to_device

# Arguments of NLCLDerain, and attributes, by the labels that the iteration uses.
NAMES = {"g": "generator", "r": "rain_generator", "d": "discriminator", "p": "heads", "s": "restorer"}


class UnitRangePreprocessor(BaseDataPreprocessor):
    """Brings a batch to the device as the networks need it: RGB, (B, 3, H, W), float in [0, 1]."""

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Convert `lq` and `gt`, uint8 or float in [0, 1]: (B, 3, H, W) or, by `pseudo_collate`, a list of (3, H, W).

        Raises:
            InputError: If `lq` is missing, or `gt` in training, or images are of several sizes.
        """
        if not data.keys() >= ({"lq", "gt"} if training else {"lq"}):
            raise InputError(
                f"the dataset gives {', '.join(map(str, data))}, but NLCLDerain needs lq (rainy images)"
                f"{' and gt (clean ones of other scenes)' if training else ''}"
            )
        batch = dict(data)
        for key in {"lq", "gt"} & set(batch):
            try:
                images = batch[key] if isinstance(batch[key], Tensor) else torch.stack(batch[key])
            except (TypeError, RuntimeError) as error:
                raise InputError(
                    f"{key}: expected tensors (3, H, W) of one size ({error}); crop training images in the dataset"
                ) from error
            images = self.cast_data(images)
            batch[key] = images.float() / 255 if images.dtype == torch.uint8 else images
        return batch


class NLCLDerain(BaseModel):
    """`NLCLModel` for MMEngine's Runner: the same losses, stages, averages and order of steps.

    Networks that no loss needs may be given and are not built. Under several processes each network is wrapped by
    itself: `model_wrapper_cfg = dict(type='MMSeparateDistributedDataParallel')`. Optimizers come from
    `NLCLOptimWrapperConstructor`.

    Args:
        train_cfg: Losses and stages: an `UnpairedOptions`, which is the `train` block of BasicSR's option files without
            optimizers, schedule and precision.
        generator: Config of the network from O to B; with losses of stage 1.
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
        generator: dict[str, Any] | None = None,
        rain_generator: dict[str, Any] | None = None,
        discriminator: dict[str, Any] | None = None,
        heads: dict[str, Any] | None = None,
        restorer: dict[str, Any] | None = None,
        decomposition: str = "residual",
        seed: int = 0,
        data_preprocessor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(data_preprocessor or {"type": "UnitRangePreprocessor"})
        self.options = check_schema(UnpairedOptions, ConfigDict(train_cfg).to_dict(), "model.train_cfg")
        self._configs = {"g": generator, "r": rain_generator, "d": discriminator, "p": heads, "s": restorer}
        nets: dict[str, nn.Module] = {}
        for label in needed_nets(self.options, decomposition):
            network = self._configs[label]
            if network is None:
                raise InputError(f"model.{NAMES[label]} is missing: train_cfg or decomposition need this network")
            extra = {"in_channels": LayerEmbeddings.in_channels(self.options, nets)} if label == "p" else {}
            with own_random_stream(seed, label):
                nets[label] = MODELS.build({**network, **extra})
            setattr(self, NAMES[label], nets[label])
        averages: dict[str, nn.Module] = {}
        for label in [label for label in ("g", "r", "s") if label in nets and self.options.ema_decay > 0]:
            averages[label] = frozen_copy(nets[label])
            setattr(self, f"average_{NAMES[label]}", averages[label])
        if self.options.restorer_opt and self.options.restorer_opt.rounds:
            averages["t"] = self.rain_restorer = frozen_copy(nets["s"])
        self._tried = False
        self.criteria = nn.ModuleList()  # here, so that `to` moves them to the device
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

    def _build_loss(self, options: dict[str, Any]) -> nn.Module:
        self.criteria.append(MODELS.build(options))
        return self.criteria[-1]

    def start_at(self, iteration: int) -> None:
        """Begin a training after so many iterations; weights of `load_from` have no progress."""
        if int(self.progress[0]) != iteration:
            self.progress.copy_(torch.tensor([iteration, math.nan, 0.0]))

    def train_step(self, data: dict[str, Any], optim_wrapper: OptimWrapperDict) -> dict[str, float]:
        """Take one optimizer step of the current stage; see `UnpairedIteration`.

        The batch contains `lq` rainy images, `gt` clean images of other scenes, and `lq_path`. Returns the losses,
        their mean over all processes.

        Raises:
            InputError: If images don't fit the networks, or each other.
        """
        if not isinstance(optim_wrapper, OptimWrapperDict):
            raise InputError("optim_wrapper.constructor is missing: set it to 'NLCLOptimWrapperConstructor'")
        batch = self.data_preprocessor(data, True)
        for label in self.iteration.nets:
            self.iteration.nets[label] = getattr(self, NAMES[label])  # wrapped by now, in distributed training
        taken, mean_rain, skipped = self.progress.tolist()
        self.iteration.mean_rain = None if math.isnan(mean_rain) else mean_rain
        self.iteration.skipped_steps = int(skipped)
        try:
            if not self._tried:
                self._try(batch["lq"], batch["gt"])
            log = self.iteration(
                batch["lq"],
                batch["gt"],
                batch.get("lq_path", []),
                int(taken) + 1,
                {label: optim_wrapper[name] for label, name in NAMES.items() if name in optim_wrapper},
                WrapperStepper(optim_wrapper, self),
            )
        except ValueError as error:  # of networks, losses and searches that images are too small for
            if isinstance(error, InputError):
                raise
            size = "×".join(map(str, batch["lq"].shape[-2:]))
            raise InputError(f"model, with images of {size} pixels: {error}") from error
        mean_rain = math.nan if self.iteration.mean_rain is None else self.iteration.mean_rain
        now = torch.tensor([taken + 1, mean_rain, self.iteration.skipped_steps])
        self.progress.copy_(to_device(now, self.progress.device))
        return dict(log) if log is not None else {"skipped_steps": float(self.iteration.skipped_steps)}

    @torch.no_grad()
    def _try(self, rainy: Tensor, clean: Tensor) -> None:
        """Refuse at the first iteration what would otherwise end stage 2, hours later."""
        self._tried = True
        shape = tuple(rainy.shape)
        if clean.shape != rainy.shape:
            raise InputError(f"lq {shape} and gt {tuple(clean.shape)} must have one shape; crop both alike")
        if "s" in self.iteration.nets:
            try:
                found = tuple(frozen_copy(bare(self.iteration.nets["s"]))(rainy).shape)
            except (AttributeError, RuntimeError, TypeError, ValueError) as error:
                raise InputError(f"model.restorer: {error}") from error
            if found != shape:
                raise InputError(f"model.restorer: makes {found} of images {shape}, but must keep their shape: "
                                 "use scale or upscale 1 and as many channels out as in")  # fmt: skip

    def forward(self, lq: Tensor, mode: str = "tensor", **data: Any) -> Any:
        """Derain images; `val_step` and `test_step` come here.

        Args:
            lq: Rainy images (B, 3, H, W), RGB in [0, 1].
            mode: `tensor` for the derained images alone; `predict` for a list of dicts, one per image, with `lq`,
                `result`, `rain` and the batch's other entries.
            **data: The other entries of the batch.
        """
        restoring = self.options.restores(max(1, int(self.progress[0])))
        label = "s" if restoring else "g"
        # Networks of windowed attention name their window by this argument.
        multiple = int((self._configs[label] or {}).get("window_size", 1))
        result = run_padded(self.iteration.steady(label), lq, multiple)
        if mode == "tensor":
            return result
        two = "r" in self.iteration.nets and not restoring
        batch = {"lq": lq, "result": result, "rain": self.iteration.steady("r")(lq) if two else lq - result, **data}
        columns = [v.detach().cpu() if isinstance(v, Tensor) else v for v in batch.values()]
        return [dict(zip(batch, row, strict=True)) for row in zip(*columns, strict=True)]

    def about(self) -> dict[str, dict[str, Any]]:
        """Describe the networks that derain (see `networks.about`), by the prefix of the weights to infer with."""
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
        """Weights of this model's network and its average in a network file; without a label it is the generator's.

        Raises:
            InputError: If the file has no weights, or those of a network that this model lacks.
        """
        about = content.get("about")
        label = about["label"] if isinstance(about, dict) and about.get("label") in NAMES else "g"
        if label == "g" and "g" not in self.iteration.nets:
            label = "s"  # a restorer alone begins with whatever derains
        if label not in self.iteration.nets:
            raise InputError(f"{path}: is net_{label}, but this model has no {NAMES[label]}; give another file")
        kinds = {"": weights_of(content, path, "params"), "average_": weights_of(content, path)}
        return {f"{kind}{NAMES[label]}.{key}": value for kind in kinds for key, value in kinds[kind].items()}

    def train(self, mode: bool = True) -> NLCLDerain:
        """Switch the networks; averages only infer."""
        super().train(mode)
        for average in self.iteration.averages.values():
            average.eval()
        return self
