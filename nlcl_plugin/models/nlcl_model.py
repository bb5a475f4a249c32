"""The unpaired deraining model: NLCL's losses (arXiv 2203.11509, 2211.00837), re-lay and a restorer stage (ours)."""

from __future__ import annotations

import contextlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from pydantic import BaseModel as OptionsModel
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nlcl_plugin.errors import InputError, TrainingStoppedError
from nlcl_plugin.models.batch_random import BatchRandom
from nlcl_plugin.models.layer_embeddings import LayerEmbeddings
from nlcl_plugin.models.moving_average import update_average
from nlcl_plugin.models.nlcl_options import OptimizerOptions, TrainOptions
from nlcl_plugin.models.optimization import Stepper, build_optimizer, build_scheduler
from nlcl_plugin.models.padding import run_padded
from nlcl_plugin.models.pretrained import load_pretrained
from nlcl_plugin.models.pseudo_pairs import make_pseudo_rainy
from nlcl_plugin.models.unpaired_losses import UnpairedLosses
from nlcl_plugin.models.validation import ValidationMixin

DECOMPOSITIONS = ("residual", "two_branch")
MAX_SKIPPED = 20  # steps in a row; more of them mean that the weights themselves are past help


class NLCLModel(ValidationMixin, BaseModel):
    """Learn B (image layer) and R (rain layer) of rainy images O with unpaired clean images C.

    Stage 1 trains `net_g` (O to B) and, in the `two_branch` decomposition, `net_r` (O to R) against `net_d`, with the
    losses of the `train` block. In the `residual` decomposition R = O - B. Stage 2, if asked for, holds those still
    and trains the restorer `net_s` on pseudo-pairs of clean images and extracted rain; from then on `net_s` derains.

    Args:
        opt: BasicSR's option dict. Networks: `network_g`, `network_r` (two_branch), `network_d` (with gan_opt),
            `network_p` (with a contrastive loss; its `in_channels` is filled in), `network_s` (with restorer_opt; in
            testing its presence means that it derains). The `train` block is a `TrainOptions`.

    Raises:
        InputError: If the options don't fit together.
    """

    train_options: type[OptionsModel] = TrainOptions

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.decomposition = opt.get("decomposition", "residual")
        if self.decomposition not in DECOMPOSITIONS:
            raise InputError(
                f"decomposition must be one of {', '.join(DECOMPOSITIONS)}, but received {self.decomposition!r}"
            )
        self.current_iter = 0
        self.rank: int = opt["rank"] if opt.get("dist") else 0
        self.processes: int = opt["world_size"] if opt.get("dist") else 1
        if not self.is_train:
            self.restoring = "network_s" in opt
            label = "s" if self.restoring else "g"
            if f"network_{label}" in opt and not opt["path"].get(f"pretrain_network_{label}"):
                raise InputError(f"path.pretrain_network_{label} is missing: give the checkpoint to test")
            self.nets = self._build_nets([label])
            return
        self.train_opt = TrainOptions.model_validate(opt["train"])
        self.restoring = False
        self.mean_rain: float | None = None  # running mean of |R|
        self.skipped_steps = self._skipped_in_a_row = 0
        self.log_dict: OrderedDict[str, float] = OrderedDict()
        self.extra_state: dict[str, Any] = {}
        self.nets = self._build_nets(self._needed_nets())
        self.averages = self._build_averages()
        bare_d = self.get_bare_model(self.nets["d"]) if "d" in self.nets else None
        self.losses = UnpairedLosses(self.train_opt, self.nets, bare_d, self.device)
        restorer = self.train_opt.restorer_opt
        self.cri_pix: Any = build_loss(restorer.pixel_opt.build_options()).to(self.device) if restorer else None
        self.stepper = Stepper(self.train_opt.amp, self.train_opt.grad_clip, self.device)
        self._setup_optimizers()

    # networks -------------------------------------------------------------------------------------------------------
    def _needed_nets(self) -> list[str]:
        t = self.train_opt
        labels = ["g"]
        if self.decomposition == "two_branch":
            labels.append("r")
        elif t.consistency_opt is not None:
            raise InputError("train.consistency_opt: B + R = O holds by construction with decomposition: residual; "
                             "remove the block or use two_branch")  # fmt: skip
        labels += ["d"] if t.gan_opt else []
        labels += ["p"] if t.location_opt or t.layer_opt else []
        labels += ["s"] if t.restorer_opt else []
        return labels

    def _build_nets(self, labels: Iterable[str]) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {}
        for label in labels:
            key = f"network_{label}"
            if key not in self.opt:
                raise InputError(f"{key} is missing: the other options need this network")
            options = deepcopy(self.opt[key])
            if label == "p":
                options["in_channels"] = LayerEmbeddings.in_channels(self.train_opt, nets)
            net = build_network(options)
            if self.is_train:
                self._speed_up(net)
            net = self.model_to_device(net)
            param_key = self.opt["path"].get(f"param_key_{label}", "params" if self.is_train else "params_ema")
            load_pretrained(self, net, label, param_key)
            setattr(self, f"net_{label}", net)
            nets[label] = net
            count = sum(p.numel() for p in net.parameters())
            get_root_logger().info(f"net_{label}: {type(self.get_bare_model(net)).__name__}, {count:,d} parameters")
        return nets

    def _speed_up(self, net: nn.Module) -> None:
        if self.train_opt.channels_last:
            net.to(memory_format=torch.channels_last)
        if self.train_opt.compile:
            net.compile()

    def _build_averages(self) -> dict[str, nn.Module]:
        """Moving averages of the networks whose output is used; they are what tests and extracts rain."""
        averages: dict[str, nn.Module] = {}
        if self.train_opt.ema_decay > 0:
            for label in {"g", "r", "s"} & set(self.nets):
                average = deepcopy(self.get_bare_model(self.nets[label])).eval().requires_grad_(False)
                load_pretrained(self, average, label, "params_ema")
                averages[label] = average
        return averages

    def _steady(self, label: str) -> nn.Module:
        """The network to infer with: its moving average if there is one."""
        averages = getattr(self, "averages", {})
        return averages[label] if label in averages else self.get_bare_model(self.nets[label])

    # optimizers -------------------------------------------------------------------------------------------------------
    def _setup_optimizers(self) -> None:
        t = self.train_opt
        stage1 = t.restorer_opt.start_iter if t.restorer_opt else t.total_iter
        groups: list[tuple[str, list[str], OptimizerOptions | None, int]] = [
            ("g", ["g", "r"], t.optim_g, stage1),
            ("d", ["d"], t.optim_d or t.optim_g, stage1),
            ("p", ["p"], t.optim_p or t.optim_g, stage1),
            ("s", ["s"], t.optim_s, t.total_iter - stage1),
        ]
        self.optimizer: dict[str, torch.optim.Optimizer] = {}
        for name, labels, options, iterations in groups:
            params = [p for label in labels if label in self.nets for p in self.nets[label].parameters()]
            if not params or options is None:
                continue
            optimizer = build_optimizer(options, params, f"train.optim_{name}")
            self.optimizer[name] = optimizer
            self.optimizers.append(optimizer)
            self.schedulers.append(build_scheduler(t.scheduler, optimizer, iterations))

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Step the schedules of the optimizers at work; that of stage 2 begins with stage 2.

        Args:
            current_iter: The iteration that follows, counted from 1.
            warmup_iter: Iterations of linear warm-up at the start of stage 1; -1 for none.
        """
        restorer = self.train_opt.restorer_opt
        second = restorer is not None and current_iter > restorer.start_iter
        begin = restorer.start_iter if restorer is not None and second else 0
        for name, scheduler in zip(self.optimizer, self.schedulers, strict=True):
            if (name == "s") == second and current_iter > begin + 1:
                scheduler.step()
        if current_iter < warmup_iter and not second:
            self._set_lr([[rate * current_iter / warmup_iter for rate in rates] for rates in self._get_init_lr()])

    def get_current_learning_rate(self) -> list[float]:
        """Learning rate of the optimizer at work: the generators', in stage 2 the restorer's."""
        return [group["lr"] for group in self.optimizer["s" if self.restoring else "g"].param_groups]

    # one iteration ----------------------------------------------------------------------------------------------------
    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq` rainy images, and `gt`: unpaired clean images in training, ground truth in validation."""
        self.lq = self._to_device(data["lq"])
        self.gt: Any = self._to_device(data["gt"]) if "gt" in data else None
        self.lq_path = data.get("lq_path", [])

    def _to_device(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        last = self.is_train and self.train_opt.channels_last
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one optimizer step of the current stage.

        Args:
            current_iter: The iteration, counted from 1.

        Raises:
            InputError: If the batch cannot be cut into `accumulate` equal parts.
            TrainingStoppedError: If a loss or gradient is not finite, or the rain layer stays empty.
        """
        self.current_iter = current_iter
        restorer = self.train_opt.restorer_opt
        starting = restorer is not None and current_iter == restorer.start_iter + 1
        self.restoring = restorer is not None and current_iter > restorer.start_iter
        if starting:
            get_root_logger().info("Stage 2: the rain networks stand still, the restorer learns on pseudo-pairs.")
        active = {name: o for name, o in self.optimizer.items() if (name == "s") == self.restoring}
        for optimizer in active.values():
            optimizer.zero_grad(set_to_none=True)
        sums: OrderedDict[str, Tensor] = OrderedDict()
        parts = list(self._parts())
        for part in parts:
            with self._synchronising(part is parts[-1]):
                losses = self._restorer_part(part) if self.restoring else self._unpaired_part(part)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value / len(parts)
        norms = {f"gradient of net_{name}": norm for name, norm in self.stepper.clip(active).items()}
        log = self._reduced(sums, {} if self.stepper.scales else norms)
        if log is None:
            return
        self.log_dict = log
        self.stepper.step(active)
        for label in {"s"} if self.restoring else {"g", "r"}:
            if label in self.averages:
                age = current_iter - (restorer.start_iter if restorer and self.restoring else 0)
                net = self.get_bare_model(self.nets[label])
                update_average(self.averages[label], net, decay=self.train_opt.ema_decay, age=age)
        if not self.restoring:
            self._watch_rain(self.log_dict["mean_rain"])

    def _parts(self) -> Iterator[slice]:
        batch, parts = self.lq.shape[0], self.train_opt.accumulate
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

    def _random(self, part: slice) -> BatchRandom:
        # The sampler deals the draws of a batch out to the processes in turn.
        batch = self.lq.shape[0]
        rows = [self.rank + self.processes * place for place in range(batch)[part]]
        return BatchRandom(self.opt.get("manual_seed") or 0, self.current_iter, rows, batch * self.processes)

    def _unpaired_part(self, part: slice) -> OrderedDict[str, Tensor]:
        rainy, clean = self.lq[part], self.gt[part]
        weight = rainy.shape[0] / self.lq.shape[0]
        if "d" in self.nets:
            self.nets["d"].requires_grad_(False)
        with self.stepper.autocast():
            total, losses, layers = self.losses.generators(rainy, clean, self.current_iter, self._random(part))
        self.stepper.backward(weight * total)
        if "d" in self.nets:
            self.nets["d"].requires_grad_(True)
            with self.stepper.autocast():
                losses["l_d"] = self.losses.discriminator(layers.image, clean)
            self.stepper.backward(weight * losses["l_d"])
            losses["l_d"] = losses["l_d"].detach()
        losses["mean_rain"] = layers.rain.abs().mean()
        return losses

    def _restorer_part(self, part: slice) -> OrderedDict[str, Tensor]:
        options, rainy, clean = self.train_opt.restorer_opt, self.lq[part], self.gt[part]
        assert options is not None
        with self.stepper.autocast():
            with torch.no_grad():
                rain = self._rain_layer(self._steady("g"), rainy)
                pseudo = make_pseudo_rainy(clean, rain, options, self._random(part))
            loss = self.cri_pix(self.nets["s"](pseudo), clean)
        self.stepper.backward(loss * (rainy.shape[0] / self.lq.shape[0]))
        return OrderedDict(l_restorer=loss.detach(), mean_rain=rain.abs().mean())

    def _reduced(self, losses: dict[str, Tensor], norms: dict[str, Tensor]) -> OrderedDict[str, float] | None:
        """Mean of the losses over all processes; None if the step has to be left out in all of them.

        One reduction and one wait for the device an iteration: what is not finite in one process is not in the mean.
        """
        names = [*losses, *norms]
        own = torch.stack([value.detach().float() for value in (*losses.values(), *norms.values())])
        mean = own.clone()
        if self.processes > 1:
            torch.distributed.all_reduce(mean)
            mean /= self.processes
        values = dict(zip(names, mean.tolist(), strict=True))
        faulty = [name for name, value in values.items() if not math.isfinite(value)]
        if faulty:
            self._report_fault(dict(zip(names, own.tolist(), strict=True)))
            return None
        self._skipped_in_a_row = 0
        log = OrderedDict((name, values[name]) for name in losses)
        if self.train_opt.grad_clip is not None:
            log.update((name.replace("gradient of net", "grad_norm"), values[name]) for name in norms)
        if self.skipped_steps:
            log["skipped_steps"] = float(self.skipped_steps)
        return log

    def _report_fault(self, own: dict[str, float]) -> None:
        """Stop the training in every process, naming what one of them saw first; or count the step as left out."""
        found = next((f"{name} is {value}" for name, value in own.items() if not math.isfinite(value)), None)
        report = found and f"{found} at iteration {self.current_iter} (images: {', '.join(self.lq_path)})"
        reports = [report]
        if self.processes > 1:
            reports = [None] * self.processes
            torch.distributed.all_gather_object(reports, report)
        message = next((text for text in reports if text), f"a loss is not finite at iteration {self.current_iter}")
        advice = "lower the learning rate or the loss weights, or clip gradients (train.grad_clip); "
        if self.train_opt.on_nonfinite == "stop":
            raise TrainingStoppedError(f"{message}; {advice}the last checkpoint is kept")
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        get_root_logger().warning(f"Step left out: {message}")
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingStoppedError(f"{MAX_SKIPPED} steps in a row were left out, at last: {message}; {advice}")

    def _watch_rain(self, mean: float) -> None:
        """Keep the running mean of |R|; R = 0 is a stable trap, where no time should be spent."""
        t = self.train_opt
        self.mean_rain = mean if self.mean_rain is None else 0.95 * self.mean_rain + 0.05 * mean
        last = t.restorer_opt is not None and self.current_iter == t.restorer_opt.start_iter
        if (self.current_iter >= t.collapse_iter or last) and self.mean_rain < t.min_mean_rain:
            raise TrainingStoppedError(
                f"the rain layer is empty (mean |R| {self.mean_rain:.5f} < min_mean_rain {t.min_mean_rain} at "
                f"iteration {self.current_iter}): the generator copies its input; ramp identity, fidelity and the "
                "contrastive losses in later (ramp_iter), lower their weights, or try another manual_seed"
            )

    def _rain_layer(self, net_g: nn.Module, rainy: Tensor) -> Tensor:
        return self._steady("r")(rainy) if "r" in self.nets else rainy - net_g(rainy)

    # inference, saving, resuming --------------------------------------------------------------------------------------
    @torch.no_grad()
    def test(self) -> None:
        """Derain `self.lq` into `self.output`, and its rain layer into `self.rain`."""
        label = "s" if self.restoring else "g"
        net = self._steady(label)
        training = net.training
        net.eval()
        # Networks of windowed attention name their window in BasicSR by this option.
        self.output = run_padded(net, self.lq, self.opt[f"network_{label}"].get("window_size", 1))
        net.train(training)
        if "r" in self.nets and not self.restoring:
            self.rain = self._steady("r")(self.lq)
        else:
            self.rain = self.lq - self.output

    def get_current_visuals(self) -> OrderedDict[str, Tensor]:
        """Images of the last `test`: `lq`, `result`, `rain` and, if known, `gt`; (B, C, H, W) on the CPU."""
        visuals = OrderedDict(lq=self.lq.cpu(), result=self.output.cpu(), rain=self.rain.cpu())
        if self.gt is not None:
            visuals["gt"] = self.gt.cpu()
        return visuals

    def save(self, epoch: int, current_iter: int) -> None:
        """Save all networks (`params`, and `params_ema` where there is an average) and the training state."""
        for label, net in self.nets.items():
            if label in self.averages:
                keys = ["params", "params_ema"]
                self.save_network([net, self.averages[label]], f"net_{label}", current_iter, param_key=keys)
            else:
                self.save_network(net, f"net_{label}", current_iter)
        # BaseModel's own state holds optimizers and schedules; see compat.hold_the_whole_state.
        self.extra_state["model"] = {
            "mean_rain": self.mean_rain,
            "skipped_steps": self.skipped_steps,
            "scaler": self.stepper.scaler.state_dict(),
        }
        self.save_training_state(epoch, current_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Take optimizers, schedules, the stage and running values from a training state."""
        super().resume_training(resume_state)
        own = resume_state.get("model", {})  # a stock state has none
        self.mean_rain = own.get("mean_rain")
        self.skipped_steps = own.get("skipped_steps", 0)
        if own.get("scaler"):
            self.stepper.scaler.load_state_dict(own["scaler"])
        self.current_iter = resume_state["iter"]
        restorer = self.train_opt.restorer_opt
        self.restoring = restorer is not None and self.current_iter > restorer.start_iter
