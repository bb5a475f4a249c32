"""The unpaired deraining model: NLCL's losses (arXiv 2203.11509, 2211.00837), a restorer stage (ours)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from pydantic import BaseModel as OptionsModel
from torch import Tensor, nn

from nlcl_plugin.config.blocks import SETTINGS
from nlcl_plugin.config.schema import build_once
from nlcl_plugin.config.train_options import OptimizerOptions, TrainOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.any_size import infer, run_adjusted, run_padded
from nlcl_plugin.models.layer_embeddings import LayerEmbeddings
from nlcl_plugin.models.optimization import (
    Stepper,
    build_optimizer,
    build_scheduler,
    frozen_copy,
    load_pretrained,
    own_random_stream,
    set_rates,
)
from nlcl_plugin.models.unpaired_iteration import UnpairedIteration, needed_nets
from nlcl_plugin.models.validation import ValidationMixin


class NLCLModel(ValidationMixin, BaseModel):
    """Learn B (image layer) and R (rain layer) of rainy images O with unpaired clean images C.

    Stage 1 trains `net_g` (O to B) and, in the `two_branch` decomposition, `net_r` (O to R) against `net_d`, with the
    losses of the `train` block. In the `residual` decomposition R = O - B. Stage 2, if asked for, freezes those and
    trains the restorer `net_s` on pseudo-pairs of clean images and rain, extracted or rendered; from then on `net_s`
    derains. Without a loss of stage 1 there is stage 2 alone.

    Args:
        opt: BasicSR's option dict. Networks: `network_g` (with a loss of stage 1), `network_r` (two_branch),
            `network_d` (with gan_opt), `network_p` (with a contrastive loss; its `in_channels` is filled in),
            `network_s` (with restorer_opt; in testing its presence means that it derains, that of `network_r` that it
            makes the rain layer). The `train` block is a `TrainOptions`.

    Raises:
        InputError: If the options don't fit together.
    """

    train_options: type[OptionsModel] = TrainOptions

    def __init__(self, opt: dict[str, Any]) -> None:
        super().__init__(opt)
        self.current_iter = 0
        self._seed = opt.get("manual_seed") or 0
        self.averages: dict[str, nn.Module] = {}
        if not self.is_train:
            self.restoring = "network_s" in opt
            labels = ["s"] if self.restoring else ["g", "r"] if "network_r" in opt else ["g"]
            for label in labels:
                if f"network_{label}" in opt and not opt["path"].get(f"pretrain_network_{label}"):
                    raise InputError(f"path.pretrain_network_{label} is missing: give the checkpoint to test")
            self.nets = self._build_nets(labels)
            return
        self.train_opt = TrainOptions.model_validate(opt["train"])
        self.restoring = self.train_opt.restores(1)
        self.log_dict: OrderedDict[str, float] = OrderedDict()
        self.extra_state: dict[str, Any] = {}
        self.nets = self._build_nets(needed_nets(self.train_opt, opt.get("decomposition", "residual")))
        self._build_averages()
        self.iteration = UnpairedIteration(
            self.train_opt,
            self.nets,
            self.averages,
            lambda options: build_loss(options).to(self.device),
            seed=self._seed,
            rank=opt["rank"] if opt.get("dist") else 0,
            processes=opt["world_size"] if opt.get("dist") else 1,
            logger=get_root_logger,
        )
        self.losses = self.iteration.losses
        self.stepper = Stepper(self.train_opt.amp, self.train_opt.grad_clip, self.device)
        self._setup_optimizers()

    def _build_nets(self, labels: Iterable[str]) -> dict[str, nn.Module]:
        nets: dict[str, nn.Module] = {}
        for label in labels:
            key = f"network_{label}"
            if key not in self.opt:
                raise InputError(f"{key} is missing: the other options need this network")
            options = deepcopy(self.opt[key])
            if label == "p":
                options["in_channels"] = LayerEmbeddings.in_channels(self.train_opt, nets)
            with own_random_stream(self._seed, label):
                net = build_once(key, partial(build_network, options))
            if self.is_train and self.train_opt.channels_last:
                net.to(memory_format=torch.channels_last)
            if self.is_train and self.train_opt.compile:
                net.compile()
            net = self.model_to_device(net)
            param_key = self.opt["path"].get(f"param_key_{label}", "params" if self.is_train else "params_ema")
            load_pretrained(self, net, label, param_key)
            setattr(self, f"net_{label}", net)
            nets[label] = net
            count = sum(p.numel() for p in net.parameters())
            get_root_logger().info(f"net_{label}: {options['type']}, {count:,d} parameters")
        return nets

    def _build_averages(self) -> None:
        """Moving averages of the networks that derain or extract rain, and `t`, the restorer of the last round."""
        for label in [label for label in ("g", "r", "s") if label in self.nets and self.train_opt.ema_decay > 0]:
            self.averages[label] = frozen_copy(self.get_bare_model(self.nets[label]))
            load_pretrained(self, self.averages[label], label, "params_ema")
        if self.train_opt.restorer_opt and self.train_opt.restorer_opt.rounds:
            self.averages["t"] = frozen_copy(self.get_bare_model(self.nets["s"]))
        if self.train_opt.compile and self.train_opt.restorer_opt:
            for name in self.averages.keys() - {"s"}:  # stage 2 runs them in each step; copies are not compiled
                self.averages[name].compile()

    def _inference_network(self, label: str) -> nn.Module:
        return self.averages[label] if label in self.averages else self.get_bare_model(self.nets[label])

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
        """Step the schedules of the optimizers in use before an iteration; that of stage 2 begins with stage 2."""
        restorer = self.train_opt.restorer_opt
        second = self.train_opt.restores(current_iter)
        begin = restorer.start_iter if restorer is not None and second else 0
        warmth = current_iter / warmup_iter if current_iter < warmup_iter and not second else 1.0
        for name, scheduler in zip(self.optimizer, self.schedulers, strict=True):
            if (name == "s") == second:
                set_rates(scheduler, advance=current_iter > begin + 1, factor=warmth)

    def get_current_learning_rate(self) -> list[float]:
        """Learning rate of the optimizer in use: the generators', in stage 2 the restorer's."""
        return [group["lr"] for group in self.optimizer["s" if self.restoring else "g"].param_groups]

    def learning_rates(self) -> dict[str, float]:
        """Learning rates of all optimizers in use, by the labels of their networks."""
        used = {name: each for name, each in self.optimizer.items() if (name == "s") == self.restoring}
        return {name: each.param_groups[0]["lr"] for name, each in used.items()}

    def feed_data(self, data: dict[str, Any]) -> None:
        """Set the batch: `lq` rainy images, and `gt`: unpaired clean images in training, ground truth in validation."""
        self.lq = self._to_device(data["lq"])
        self.gt: Any = self._to_device(data["gt"]) if "gt" in data else None
        self.lq_path = data.get("lq_path", [])

    def _to_device(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        last = self.is_train and self.train_opt.channels_last
        return images.contiguous(memory_format=torch.channels_last) if last else images

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one optimizer step of an iteration's stage, counted from 1; errors are those of `UnpairedIteration`."""
        self.current_iter = current_iter
        self.restoring = self.train_opt.restores(current_iter)
        log = self.iteration(self.lq, self.gt, self.lq_path, current_iter, self.optimizer, self.stepper)
        self.log_dict = OrderedDict(skipped_steps=float(self.iteration.skipped_steps)) if log is None else log

    @torch.no_grad()
    def test(self) -> None:
        """Derain `self.lq` into `self.output`, and its rain layer into `self.rain`."""
        label = "s" if self.restoring else "g"
        net = self._inference_network(label)
        training = net.training
        net.eval()
        # Networks of windowed attention name their window in BasicSR by this option.
        window = self.opt[f"network_{label}"].get("window_size", 1)
        self.output = self._infer(net, window)
        net.train(training)
        if "r" in self.nets and not self.restoring:
            rain = self._infer(self._inference_network("r"), makes_rain=True)
            self.rain = rain.expand_as(self.lq).contiguous()  # it may be grey
        else:
            self.rain = self.lq - self.output

    def _infer(self, net: nn.Module, window: int = 1, *, makes_rain: bool = False) -> Tensor:
        def run(images: Tensor) -> Tensor:
            if self.is_train:
                return run_padded(net, images, window)
            return torch.cat([infer(net, image[None], window=window) for image in images])  # they may be large

        settings = {key: self.opt[key] for key in SETTINGS if self.opt.get(key)}
        return run_adjusted(run, self.lq, makes_rain=makes_rain, **settings)

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
        # BaseModel's own state contains optimizers and schedules; see training.basicsr_features.save_extra_state.
        self.extra_state["model"] = {
            "mean_rain": self.iteration.mean_rain,
            "skipped_steps": self.iteration.skipped_steps,
            "faulty_in_a_row": self.iteration.faulty_in_a_row,
            "rain_restorer": self.averages["t"].state_dict() if "t" in self.averages else None,
            "losses": {name: loss.state_dict() for name, loss in self.iteration.auto_temperature_losses().items()},
            "scaler": self.stepper.scaler.state_dict(),
        }
        self.save_training_state(epoch, current_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restore optimizers, schedules, the stage and running values from a training state."""
        super().resume_training(resume_state)
        own = resume_state.get("model", {})  # a stock state has none
        self.iteration.mean_rain = own.get("mean_rain")
        self.iteration.skipped_steps = own.get("skipped_steps", 0)
        self.iteration.faulty_in_a_row = own.get("faulty_in_a_row", 0)
        for name, loss in self.iteration.auto_temperature_losses().items():
            if name in own.get("losses", {}):
                loss.load_state_dict(own["losses"][name])
        if "t" in self.averages:
            # A training that began without rounds has none: its restorer of this moment is used.
            self.averages["t"].load_state_dict(own.get("rain_restorer") or self._inference_network("s").state_dict())
        if own.get("scaler"):
            self.stepper.scaler.load_state_dict(own["scaler"])
        self.current_iter = resume_state["iter"]
        self.restoring = self.train_opt.restores(self.current_iter)
