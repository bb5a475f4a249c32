"""One iteration of unpaired training, the same in every framework: parts, both stages, averages, what is watched."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from nlcl_plugin.config.train_options import UnpairedOptions
from nlcl_plugin.errors import InputError, TrainingStoppedError
from nlcl_plugin.models.composite_contrast import compare_composites
from nlcl_plugin.models.optimization import Stepper, update_average
from nlcl_plugin.models.unpaired_losses import UnpairedLosses
from nlcl_plugin.rain.batch_random import BatchRandom
from nlcl_plugin.rain.finish import finish_pairs
from nlcl_plugin.rain.pseudo_pairs import make_pseudo_rainy, replace_by_rendered
from nlcl_plugin.rain.structure import add_structure

DECOMPOSITIONS = ("residual", "two_branch")
MAX_SKIPPED = 20  # steps in a row; more of them mean that the weights themselves are past help


def needed_nets(options: UnpairedOptions, decomposition: str) -> list[str]:
    """Labels of the networks that the options need, in the order in which they are built.

    Args:
        options: Losses and stages.
        decomposition: `residual` or `two_branch`.

    Returns:
        Some of `g`, `r`, `d`, `p`, `s`.

    Raises:
        InputError: If the decomposition is unknown or a loss doesn't go with it.
    """
    if decomposition not in DECOMPOSITIONS:
        raise InputError(f"decomposition must be one of {', '.join(DECOMPOSITIONS)}, but received {decomposition!r}")
    if decomposition == "residual" and options.consistency_opt is not None:
        raise InputError("train.consistency_opt: B + R = O holds by construction with decomposition: residual; "
                         "remove the block or use two_branch")  # fmt: skip
    if decomposition == "two_branch" and options.consistency_opt is None and options.layer_opt is None:
        raise InputError("train.consistency_opt is missing: with decomposition: two_branch nothing else trains net_r, "
                         "the rain layer, but layer_opt; add one of them")  # fmt: skip
    labels = ["g"] if options.has_stage_one else []
    labels += ["r"] if decomposition == "two_branch" else []
    labels += ["d"] if options.gan_opt else []
    labels += ["p"] if options.location_opt or options.layer_opt else []
    labels += ["s"] if options.restorer_opt else []
    return labels


def bare(net: nn.Module) -> nn.Module:
    """A network without the wrapper of parallel training."""
    return net.module if isinstance(net, DataParallel | DistributedDataParallel) else net


class UnpairedIteration:
    """Takes the optimizer steps; random numbers come from (seed, iteration) alone (see `BatchRandom`).

    Args:
        options: Losses and stages.
        nets: Networks by label, as they are run; the owner may put wrapped ones in their places before the first call.
        averages: Moving averages by label, which infer and extract rain in the places of their networks. With
            `restorer_opt.rounds` also `t`, of the kind of `s`: the restorer that extracts rain. The owner saves it.
        build: Builds a loss by its framework's registry.
        seed: The seed of the run.
        rank: This process.
        processes: All processes. A batch of all of them has been dealt out in turn.
        logger: Returns the logger for the beginning of stage 2 and for skipped steps.

    Attributes:
        mean_rain: Running mean of |R|; None at first.
        skipped_steps: Steps left out so far.
        faulty_in_a_row: Steps up to now in which something was not finite.
    """

    def __init__(
        self,
        options: UnpairedOptions,
        nets: dict[str, nn.Module],
        averages: dict[str, nn.Module],
        build: Callable[[dict[str, Any]], nn.Module],
        *,
        seed: int,
        rank: int,
        processes: int,
        logger: Callable[[], logging.Logger],
    ) -> None:
        self.options = options
        self.nets = nets
        self.averages = averages
        self.losses = UnpairedLosses(options, nets, bare(nets["d"]) if "d" in nets else None, build)
        restorer = options.restorer_opt
        self.cri_pix = build(restorer.pixel_opt.build_options()) if restorer else None
        self.cri_composite: Any = None  # of stage 2; that of stage 1 is among `losses`
        if restorer and restorer.composite_opt:
            self.cri_composite = build(restorer.composite_opt.build_options())
        self.mean_rain: float | None = None
        self.skipped_steps = self.faulty_in_a_row = 0
        self._seed = seed
        self._rank = rank
        self._processes = processes
        self._logger = logger

    def steady(self, label: str) -> nn.Module:
        """The network to infer with: its moving average if there is one."""
        return self.averages[label] if label in self.averages else bare(self.nets[label])

    def auto_temperature_losses(self) -> dict[str, Any]:
        """Losses whose temperatures follow the layers' dimensions, by name; they have a state."""
        losses = {"layer": self.losses.cri_layer, "composite": self.losses.cri_composite}
        losses["restorer_composite"] = self.cri_composite
        return {name: loss for name, loss in losses.items() if getattr(loss, "asymmetry", None) == "auto"}

    def __call__(
        self,
        rainy: Tensor,
        clean: Tensor,
        names: Sequence[str],
        current_iter: int,
        optimizers: Mapping[str, Any],
        stepper: Stepper,
    ) -> OrderedDict[str, float] | None:
        """Take one optimizer step of the current stage.

        Args:
            rainy: Rainy images O (B, 3, H, W), RGB in [0, 1].
            clean: Clean images C of other scenes, of the same shape.
            names: What the rainy images are called, for messages.
            current_iter: The iteration, counted from 1.
            optimizers: Optimizers, by the labels `g` (with net_r), `d`, `p` and `s`.
            stepper: Precision, backward passes and steps.

        Returns:
            The losses, their mean over all processes; None if the step was left out.

        Raises:
            InputError: If the batch cannot be cut into `accumulate` equal parts.
            TrainingStoppedError: If a loss or gradient is not finite, or the rain layer stays empty.
        """
        restorer, restoring = self.options.restorer_opt, self.options.restores(current_iter)
        if restorer is not None and current_iter == restorer.start_iter + 1:
            frozen = "the networks of stage 1 are frozen, " if "g" in self.nets else ""
            self._logger().info(f"Stage 2: {frozen}the restorer is trained on pseudo-pairs.")
        active = {name: o for name, o in optimizers.items() if (name == "s") == restoring}
        for optimizer in active.values():
            optimizer.zero_grad(set_to_none=True)
        sums: OrderedDict[str, Tensor] = OrderedDict()
        if self._rounds(current_iter) > self._rounds(current_iter - 1):
            self._logger().info("From here on, rain is extracted by the restorer as it is now.")
            self.averages["t"].load_state_dict(self.steady("s").state_dict())
        take = self._restorer_part if restoring else self._unpaired_part
        parts = list(self._parts(rainy.shape[0]))
        for part in parts:
            random = self._random(current_iter, part, rainy.shape[0])
            weight = 1 / len(parts)
            with self._synchronising(part is parts[-1]):
                losses = take(rainy[part], clean[part], weight, current_iter, random, stepper)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value / len(parts)
        norms = {f"gradient of net_{name}": norm for name, norm in stepper.clip(active).items()}
        values = self._reduced(sums, norms, names, current_iter, scaled=stepper.scales)
        if values is None:
            stepper.leave_out()
            return None
        stepper.step(active)
        for label in {"s"} if restoring else {"g", "r"}:
            if label in self.averages:
                age = current_iter - (restorer.start_iter if restorer and restoring else 0)
                update_average(self.averages[label], bare(self.nets[label]), decay=self.options.ema_decay, age=age)
        if not restoring or self._rounds(current_iter):
            self._watch_rain(values["mean_rain"], current_iter)
            if "log_dim_ratio" in values:
                for loss in self.auto_temperature_losses().values():
                    loss.observe(values["log_dim_ratio"])
        log = OrderedDict((name, values[name]) for name in sums)
        if stepper.clips:
            finite = (name for name in norms if math.isfinite(values[name]))
            log.update((name.replace("gradient of net", "grad_norm"), values[name]) for name in finite)
        if self.skipped_steps:
            log["skipped_steps"] = float(self.skipped_steps)
        return log

    def _parts(self, batch: int) -> Iterator[slice]:
        parts = self.options.accumulate
        if batch % parts:
            raise InputError(f"train.accumulate: a batch of {batch} images has no {parts} equal parts; change one")
        size = batch // parts
        return (slice(start, start + size) for start in range(0, batch, size))

    @contextlib.contextmanager
    def _synchronising(self, wanted: bool) -> Iterator[None]:
        """Add up gradients over processes, which only the last part of a batch needs to."""
        with contextlib.ExitStack() as stack:
            for net in self.nets.values():
                if not wanted and isinstance(net, DistributedDataParallel):
                    stack.enter_context(net.no_sync())
            yield

    def _random(self, current_iter: int, part: slice, batch: int) -> BatchRandom:
        # The sampler deals the draws of a batch out to the processes in turn.
        rows = [self._rank + self._processes * place for place in range(batch)[part]]
        return BatchRandom(self._seed, current_iter, rows, batch * self._processes)

    def _unpaired_part(
        self, rainy: Tensor, clean: Tensor, weight: float, current_iter: int, random: BatchRandom, stepper: Stepper
    ) -> OrderedDict[str, Tensor]:
        if "d" in self.nets:
            self.nets["d"].requires_grad_(False)
        with stepper.autocast():
            total, losses, layers = self.losses.generators(rainy, clean, current_iter, random)
        stepper.backward(weight * total)
        if "d" in self.nets:
            self.nets["d"].requires_grad_(True)
            with stepper.autocast():
                losses["l_d"] = self.losses.discriminator(layers.image, clean)
            stepper.backward(weight * losses["l_d"])
            losses["l_d"] = losses["l_d"].detach()
        losses["mean_rain"] = layers.rain.abs().mean()
        return losses

    def _restorer_part(
        self, rainy: Tensor, clean: Tensor, weight: float, current_iter: int, random: BatchRandom, stepper: Stepper
    ) -> OrderedDict[str, Tensor]:
        assert self.options.restorer_opt is not None
        assert self.cri_pix is not None
        with stepper.autocast():
            with torch.no_grad():
                found, laid = self._laid_rain(rainy, current_iter, random)
                variation = self.options.restorer_opt.variation(self._rounds(current_iter))
                clean = add_structure(clean, variation, random)
                pseudo = make_pseudo_rainy(clean, laid, variation, random)
                clean, pseudo = finish_pairs(clean, pseudo, variation, random)
            restored = self.nets["s"](pseudo)
            value = self.cri_pix(restored, clean)
            losses = OrderedDict(l_restorer=value.detach())
            stage_iter = current_iter - self.options.restorer_opt.start_iter
            total = self.options.restorer_opt.pixel_opt.weight_at(stage_iter) * value
            contrast = self.options.restorer_opt.composite_opt
            if contrast is not None:
                value = self.cri_composite(*compare_composites(restored, pseudo, clean, contrast.sampling, random))
                losses["l_composite"] = value.detach()
                total = total + contrast.weight_at(stage_iter) * value
        stepper.backward(weight * total)
        return OrderedDict(**losses, **found)

    def _laid_rain(
        self, rainy: Tensor, current_iter: int, random: BatchRandom
    ) -> tuple[OrderedDict[str, Tensor], Tensor]:
        """What is logged of the extracted rain, and the rain that is laid on clean images, extracted or rendered."""
        options = self.options.restorer_opt
        assert options is not None
        if not self._extracts(current_iter):
            everywhere = options.model_copy(update={"rendered": 1.0})
            return OrderedDict(), replace_by_rendered(torch.zeros_like(rainy[:, :1]), everywhere, random)
        rain = self._extracted_rain(rainy, current_iter)
        return OrderedDict(mean_rain=rain.abs().mean()), replace_by_rendered(rain, options, random)

    def _extracts(self, current_iter: int) -> bool:
        """Whether rain is extracted from rainy images at an iteration of stage 2."""
        return "g" in self.nets or self._rounds(current_iter) > 0

    def _extracted_rain(self, rainy: Tensor, current_iter: int) -> Tensor:
        """The rain layer of rainy images: stage 1's or, after a round, what the restorer of that time takes out."""
        if self._rounds(current_iter):
            return (rainy - self.averages["t"](rainy)).mean(dim=1, keepdim=True)  # rain is grey
        return self.steady("r")(rainy) if "r" in self.nets else rainy - self.steady("g")(rainy)

    def _rounds(self, current_iter: int) -> int:
        """Rounds of stage 2 that are over."""
        restorer = self.options.restorer_opt
        return sum(current_iter > restorer.start_iter + end for end in restorer.rounds) if restorer else 0

    def _reduced(
        self,
        losses: dict[str, Tensor],
        norms: dict[str, Tensor],
        images: Sequence[str],
        current_iter: int,
        *,
        scaled: bool,
    ) -> dict[str, float] | None:
        """Mean of losses and gradient norms over all processes; None if the step has to be left out in all of them.

        One reduction and one wait for the device an iteration: what is not finite in one process is not in the mean.
        """
        names = [*losses, *norms]
        own = torch.stack([value.detach().float() for value in (*losses.values(), *norms.values())])
        mean = own.clone()
        if self._processes > 1:
            torch.distributed.all_reduce(mean)
            mean /= self._processes
        values = dict(zip(names, mean.tolist(), strict=True))
        faulty = {name for name, value in values.items() if not math.isfinite(value)}
        self.faulty_in_a_row = self.faulty_in_a_row + 1 if faulty else 0
        # A lower scale mends a gradient that overflows, unless it does so for ever.
        mending = scaled and faulty <= norms.keys() and self.faulty_in_a_row < MAX_SKIPPED
        if faulty and not mending:
            self._report_fault(dict(zip(names, own.tolist(), strict=True)), images, current_iter)
            return None
        return values

    def _report_fault(self, own: dict[str, float], images: Sequence[str], current_iter: int) -> None:
        """Stop the training in every process, naming what one of them saw first; or count the step as left out."""
        found = next((f"{name} is {value}" for name, value in own.items() if not math.isfinite(value)), None)
        report = found and f"{found} at iteration {current_iter} (images: {', '.join(images)})"
        reports = [report]
        if self._processes > 1:
            reports = [None] * self._processes
            torch.distributed.all_gather_object(reports, report)
        message = next((text for text in reports if text), f"a loss is not finite at iteration {current_iter}")
        advice = "lower the learning rate or the loss weights, or clip gradients (train.grad_clip); "
        if self.options.on_nonfinite == "stop":
            raise TrainingStoppedError(f"{message}; {advice}the last checkpoint is kept")
        self.skipped_steps += 1
        self._logger().warning(f"Step left out: {message}")
        if self.faulty_in_a_row >= MAX_SKIPPED:
            raise TrainingStoppedError(f"{MAX_SKIPPED} steps in a row were left out, at last: {message}; {advice}")

    def _watch_rain(self, mean: float, current_iter: int) -> None:
        """Keep the running mean of |R|; R = 0 is a stable trap, where no time should be spent."""
        t = self.options
        self.mean_rain = mean if self.mean_rain is None else 0.95 * self.mean_rain + 0.05 * mean
        last = t.restorer_opt is not None and current_iter == t.restorer_opt.start_iter
        advice = (
            "ramp identity, fidelity and the contrastive losses in later (ramp_iter), lower their weights, or try "
            "another manual_seed"
        )
        if t.restores(current_iter):
            advice = "begin with weights that find rain (path.pretrain_network_s), or let rounds begin later"
        if (current_iter >= t.collapse_iter or last) and self.mean_rain < t.min_mean_rain:
            raise TrainingStoppedError(
                f"the rain layer is empty (mean |R| {self.mean_rain:.5f} < min_mean_rain {t.min_mean_rain} at "
                f"iteration {current_iter}): the network copies its input; {advice}"
            )
