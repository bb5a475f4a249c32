"""The unpaired deraining model: NLCL's losses (arXiv 2203.11509, 2211.00837), re-lay and a restorer stage (ours)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from pydantic import BaseModel as OptionsModel
from torch import Tensor, nn

from nlcl_plugin.errors import InputError, TrainingStoppedError
from nlcl_plugin.losses import lay_rain
from nlcl_plugin.models.layer_embeddings import LayerEmbeddings, image_places, layer_places
from nlcl_plugin.models.nlcl_options import LossOptions, OptimizerOptions, TrainOptions
from nlcl_plugin.models.pseudo_pairs import make_pseudo_rainy
from nlcl_plugin.models.schedulers import linear_decay
from nlcl_plugin.models.validation import ValidationMixin

DECOMPOSITIONS = ("residual", "two_branch")


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
        if not self.is_train:
            self.restoring = "network_s" in opt
            label = "s" if self.restoring else "g"
            if f"network_{label}" in opt and not opt["path"].get(f"pretrain_network_{label}"):
                raise InputError(f"path.pretrain_network_{label} is missing: give the checkpoint to test")
            self.nets = self._build_nets([label])
            return
        self.train_opt = TrainOptions.model_validate(opt["train"])
        self.restoring = False
        self.mean_rain: Tensor | None = None  # running mean of |R|
        self.nets = self._build_nets(self._needed_nets())
        self.embed = LayerEmbeddings(self.train_opt, self.nets)
        self.averages = self._build_averages()
        self._build_losses()
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
            net = self.model_to_device(build_network(options))
            self._load(
                net, label, self.opt["path"].get(f"param_key_{label}", "params" if self.is_train else "params_ema")
            )
            setattr(self, f"net_{label}", net)
            nets[label] = net
            count = sum(p.numel() for p in net.parameters())
            get_root_logger().info(f"net_{label}: {type(self.get_bare_model(net)).__name__}, {count:,d} parameters")
        return nets

    def _load(self, net: nn.Module, label: str, param_key: str) -> None:
        path = self.opt["path"].get(f"pretrain_network_{label}")
        if path is None:
            return
        try:
            self.load_network(net, path, self.opt["path"].get(f"strict_load_{label}", True), param_key)
        except KeyError as error:
            raise InputError(f"{path}: holds no weights under {error}; set path.param_key_{label}") from error
        except Exception as error:  # torch.load raises nearly anything on a file that is no checkpoint
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"path.pretrain_network_{label}: {path} does not fit network_{label} or is no checkpoint ({reason})"
            ) from error

    def _build_averages(self) -> dict[str, nn.Module]:
        """Moving averages of the networks whose output is used; they are what tests and extracts rain."""
        averages: dict[str, nn.Module] = {}
        if self.train_opt.ema_decay > 0:
            for label in {"g", "r", "s"} & set(self.nets):
                average = deepcopy(self.get_bare_model(self.nets[label])).eval().requires_grad_(False)
                self._load(average, label, "params_ema")
                averages[label] = average
        return averages

    def _steady(self, label: str) -> nn.Module:
        """The network to infer with: its moving average if there is one."""
        averages = getattr(self, "averages", {})
        return averages[label] if label in averages else self.get_bare_model(self.nets[label])

    @torch.no_grad()
    def _update_averages(self, labels: Iterable[str]) -> None:
        for label in labels:
            if label not in self.averages:
                continue
            # A young average would still hold the random start: its decay grows to the full one.
            decay = min(self.train_opt.ema_decay, (self._age(label) + 1) / (self._age(label) + 10))
            net = self.get_bare_model(self.nets[label])
            average = self.averages[label]
            for mean, parameter in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
            for copied, buffer in zip(average.buffers(), net.buffers(), strict=True):
                copied.copy_(buffer)

    def _age(self, label: str) -> int:
        begin = self.train_opt.restorer_opt.start_iter if label == "s" and self.train_opt.restorer_opt else 0
        return self.current_iter - begin

    # losses and optimizers --------------------------------------------------------------------------------------------
    def _build_losses(self) -> None:
        t = self.train_opt
        self.cri_gan = self._loss(t.gan_opt)
        self.cri_location = self._loss(t.location_opt)
        self.cri_layer = self._loss(t.layer_opt)
        self.cri_consistency = self._loss(t.consistency_opt)
        self.cri_fidelity = self._loss(t.fidelity_opt)
        self.cri_identity = self._loss(t.identity_opt)
        self.cri_relay = self._loss(t.relay_opt)
        self.cri_pix = self._loss(t.restorer_opt.pixel_opt if t.restorer_opt else None)

    def _loss(self, options: LossOptions | None) -> Any:
        return build_loss(options.build_options()).to(self.device) if options is not None else None

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
            optimizer = self.get_optimizer(options.type, params, **options.arguments())
            self.optimizer[name] = optimizer
            self.optimizers.append(optimizer)
            if t.scheduler.type == "LinearDecayLR":
                arguments = t.scheduler.model_extra or {}
                self.schedulers.append(linear_decay(optimizer, total_iter=iterations, **arguments))
        if t.scheduler.type != "LinearDecayLR":
            self.setup_schedulers()

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

    def get_optimizer(self, optim_type: str, params: Any, lr: float, **kwargs: Any) -> torch.optim.Optimizer:
        """Build an optimizer of `torch.optim` by name."""
        cls = getattr(torch.optim, optim_type, None)
        if cls is None:
            raise InputError(f"optimizer type {optim_type!r} is not in torch.optim; did you mean Adam or AdamW?")
        return cls(params, lr=lr, **kwargs)

    def get_current_learning_rate(self) -> list[float]:
        """Learning rate of the optimizer at work: the generators', in stage 2 the restorer's."""
        return [group["lr"] for group in self.optimizer["s" if self.restoring else "g"].param_groups]

    # one iteration ----------------------------------------------------------------------------------------------------
    def feed_data(self, data: dict[str, Any]) -> None:
        """Take a batch: `lq` rainy images, and `gt`: unpaired clean images in training, ground truth in validation."""
        self.lq = data["lq"].to(self.device, non_blocking=True)
        self.gt: Any = data["gt"].to(self.device, non_blocking=True) if "gt" in data else None
        self.lq_path = data.get("lq_path", [])

    def optimize_parameters(self, current_iter: int) -> None:
        """Take one optimizer step of the current stage.

        Args:
            current_iter: The iteration, counted from 1.

        Raises:
            TrainingStoppedError: If a loss is not finite, or the rain layer stays empty.
        """
        self.current_iter = current_iter
        restorer = self.train_opt.restorer_opt
        starting = restorer is not None and current_iter == restorer.start_iter + 1
        self.restoring = restorer is not None and current_iter > restorer.start_iter
        if starting:
            get_root_logger().info("Stage 2: the rain networks stand still, the restorer learns on pseudo-pairs.")
        losses = self._restorer_step() if self.restoring else self._unpaired_step()
        self.log_dict = self.reduce_loss_dict(losses)

    def _require_finite(self, name: str, value: Tensor) -> None:
        if not torch.isfinite(value):
            raise TrainingStoppedError(
                f"{name} is {value.item()} at iteration {self.current_iter} (images: {', '.join(self.lq_path)}); "
                "lower the learning rate or the loss weights; the last checkpoint is kept"
            )

    def _unpaired_step(self) -> OrderedDict[str, Tensor]:
        t, rainy, clean, n = self.train_opt, self.lq, self.gt, self.lq.shape[0]
        losses: OrderedDict[str, Tensor] = OrderedDict()
        total = rainy.new_zeros(())

        def add(name: str, options: LossOptions, value: Tensor) -> None:
            nonlocal total
            self._require_finite(name, value)  # at once: the network's weights are still good
            losses[name] = value.detach()
            total = total + options.weight_at(self.current_iter) * value

        if self.cri_gan is not None:
            self.nets["d"].requires_grad_(False)

        # One pass of the generator serves O and C, and its features of both are the keys of location contrast.
        on_clean = t.location_opt is not None and t.location_opt.sampling.on_clean
        with_clean = on_clean or self.cri_identity is not None
        inputs = torch.cat((rainy, clean)) if with_clean else rainy
        outputs, keys = self.embed.generator(inputs)
        image = outputs[:n]
        rain = self.nets["r"](rainy) if "r" in self.nets else rainy - image

        features_b, features_r = None, None
        if self.cri_gan is not None:
            judged, features_b, features_r = self.embed.discriminator(image, rain)
            add("l_g_gan", t.gan_opt, self.cri_gan(judged, True))  # type: ignore[arg-type]
        compared = len(inputs) if on_clean else n
        embeddings = self.embed(
            location=image_places(outputs[:compared], [k[:compared] for k in keys], self.embed)
            if t.location_opt
            else None,
            layer=layer_places(image, rain, features_b, features_r, self.embed) if t.layer_opt else None,
        )
        if t.location_opt is not None:
            add("l_location", t.location_opt, self.cri_location(*embeddings.location))
        if t.layer_opt is not None:
            value = self.cri_layer(*embeddings.layer)
            add("l_layer", t.layer_opt, value)
            losses["l_layer_above_floor"] = value.detach() - self.cri_layer.floor(*embeddings.layer)
        if t.consistency_opt is not None:
            add("l_consistency", t.consistency_opt, self.cri_consistency(image + rain, rainy))
        if t.fidelity_opt is not None:
            add("l_fidelity", t.fidelity_opt, self.cri_fidelity(image, rainy))
        if t.identity_opt is not None:
            add("l_identity", t.identity_opt, self.cri_identity(outputs[n:], clean))
        if t.relay_opt is not None:
            # Rain of another image of the batch where there is one; the clean image is unrelated anyway.
            composite = lay_rain(clean, rain.detach().clamp_min(0).roll(1, dims=0))
            add("l_relay", t.relay_opt, self.cri_relay(self.nets["g"](composite), clean))

        for name in ("g", "p"):
            if name in self.optimizer:
                self.optimizer[name].zero_grad(set_to_none=True)
        total.backward()
        for name in ("g", "p"):
            if name in self.optimizer:
                self.optimizer[name].step()
        if self.cri_gan is not None:
            losses["l_d"] = self._discriminator_step(image.detach(), clean)
        self._update_averages(("g", "r"))
        losses["mean_rain"] = self._watch_rain(rain)
        return losses

    def _discriminator_step(self, image: Tensor, clean: Tensor) -> Tensor:
        net = self.nets["d"].requires_grad_(True)
        real, fake = net(torch.cat((clean, image))).chunk(2)
        loss = 0.5 * (self.cri_gan(real, True, is_disc=True) + self.cri_gan(fake, False, is_disc=True))
        self._require_finite("l_d", loss)
        self.optimizer["d"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer["d"].step()
        return loss.detach()

    def _watch_rain(self, rain: Tensor) -> Tensor:
        """Running mean of |R|; R = 0 is a stable trap, where no time should be spent."""
        t = self.train_opt
        mean = rain.detach().abs().mean()
        self.mean_rain = mean if self.mean_rain is None else torch.lerp(self.mean_rain, mean, 0.05)
        last = t.restorer_opt is not None and self.current_iter == t.restorer_opt.start_iter
        if (self.current_iter >= t.collapse_iter or last) and self.mean_rain < t.min_mean_rain:
            raise TrainingStoppedError(
                f"the rain layer is empty (mean |R| {self.mean_rain.item():.5f} < min_mean_rain {t.min_mean_rain} at "
                f"iteration {self.current_iter}): the generator copies its input; ramp identity, fidelity and the "
                "contrastive losses in later (ramp_iter), lower their weights, or try another manual_seed"
            )
        return mean

    def _restorer_step(self) -> OrderedDict[str, Tensor]:
        options = self.train_opt.restorer_opt
        assert options is not None
        with torch.no_grad():
            rain = self._rain_layer(self._steady("g"), self.lq)
            rainy = make_pseudo_rainy(self.gt, rain, options)
        loss = self.cri_pix(self.nets["s"](rainy), self.gt)
        self._require_finite("l_restorer", loss)
        self.optimizer["s"].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer["s"].step()
        self._update_averages(("s",))
        return OrderedDict(l_restorer=loss.detach(), mean_rain=rain.abs().mean())

    def _rain_layer(self, net_g: nn.Module, rainy: Tensor) -> Tensor:
        return self._steady("r")(rainy) if "r" in self.nets else rainy - net_g(rainy)

    # inference, saving, resuming --------------------------------------------------------------------------------------
    @torch.no_grad()
    def test(self) -> None:
        """Derain `self.lq` into `self.output`, and its rain layer into `self.rain`."""
        net = self._steady("s" if self.restoring else "g")
        training = net.training
        net.eval()
        self.output = net(self.lq)
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
        self.save_training_state(epoch, current_iter)

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Take optimizers, schedulers and the stage from a training state."""
        super().resume_training(resume_state)
        self.current_iter = resume_state["iter"]
        restorer = self.train_opt.restorer_opt
        self.restoring = restorer is not None and self.current_iter > restorer.start_iter
