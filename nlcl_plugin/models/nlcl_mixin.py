"""NLCL in any BasicSR model: layer contrast on (output, input - output), added to the model's own training step."""

from __future__ import annotations

import contextlib
import inspect
import os
from collections import OrderedDict
from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils import get_root_logger
from pydantic import BaseModel as OptionsModel
from torch import Tensor, nn

from nlcl_plugin.config.addon_options import AddonOptions
from nlcl_plugin.config.train_options import Built, OptimizerOptions
from nlcl_plugin.errors import InputError
from nlcl_plugin.models.layer_embeddings import layer_places
from nlcl_plugin.models.module_features import ModuleFeatures
from nlcl_plugin.models.optimization import build_optimizer, build_scheduler, load_pretrained
from nlcl_plugin.ops import gather_at
from nlcl_plugin.rain.batch_random import BatchRandom


class AddedContrast:
    """The losses of a block `nlcl_opt` on an output B and what its input has beyond it, R = input - B.

    Features are one (B, C, h, w) per tap of images: `ModuleFeatures`, or an encoder that is trained.
    """

    def __init__(self, options: AddonOptions, features: ModuleFeatures | nn.Module, device: torch.device) -> None:
        self.options = options
        self.features = features
        self.cri_layer: Any = build_loss(options.layer_opt.build_options()).to(device)
        location = options.location_opt
        self.cri_location: Any = build_loss(location.build_options()).to(device) if location else None

    def frozen(self) -> contextlib.AbstractContextManager[None]:
        """Within it, a network that only returns features gets no gradients and keeps its state."""
        return self.features.frozen() if isinstance(self.features, ModuleFeatures) else contextlib.nullcontext()

    def __call__(
        self, heads: nn.Module, output: Tensor, inputs: Tensor, random: BatchRandom
    ) -> tuple[Tensor, OrderedDict[str, Tensor]]:
        """Sum of the losses, and each as it is logged; call it, and its backward pass, within `frozen`.

        Heads are two per tap with location contrast (its own first), else one. Inputs (B, C, h, w) are resized to the
        size of the output (bicubic).
        """
        if output.dim() != 4 or inputs.dim() != 4 or output.shape[:2] != inputs.shape[:2]:
            raise InputError(
                f"train.nlcl_opt: compares images (B, C, H, W) of net_g's input and output, but received "
                f"{tuple(inputs.shape)} and {tuple(output.shape)}; use a network of as many channels out as in"
            )
        full = inputs.detach()
        if full.shape != output.shape:
            full = F.interpolate(full, size=output.shape[-2:], mode="bicubic", align_corners=False)
        rain = full - output
        n, size = output.shape[0], (output.shape[-2], output.shape[-1])
        location = self.options.location_opt
        layers = [output, rain, full] if location else [output, rain]
        maps = [feature.split(n) for feature in self.features(torch.cat(layers))]
        vectors: list[tuple[Tensor, Tensor]] = []
        if location:
            places = random.centres(location.sampling.num_patches, size, 1, output.device)
            vectors += [(gather_at(m[0], places, size), gather_at(m[2], places, size)) for m in maps]
        sampling = self.options.layer_opt.sampling
        found = layer_places(output, rain, [m[0] for m in maps], [m[1] for m in maps], sampling, random)
        vectors += zip(*found, strict=True)
        # One pass of the heads, as a second one would confuse DistributedDataParallel.
        projected = heads([torch.cat(pair, dim=1) for pair in vectors])
        pairs = [z.split([a.shape[1], b.shape[1]], dim=1) for z, (a, b) in zip(projected, vectors, strict=True)]
        losses: OrderedDict[str, Tensor] = OrderedDict()
        layer = [list(side) for side in zip(*pairs[-len(maps) :], strict=True)]
        total = self.cri_layer(*layer)
        losses["l_nlcl"] = total.detach()
        losses["l_nlcl_above_floor"] = total.detach() - self.cri_layer.floor(*layer)
        if location:
            value = self.cri_location(*(list(side) for side in zip(*pairs[: len(maps)], strict=True)))
            losses["l_nlcl_location"] = value.detach()
            total = total + value
        return total, losses


class NLCLMixin:
    """Adds layer contrast, and location contrast if asked for, to a BasicSR model that has `net_g`.

    For your own model class: `class MyNLCLModel(NLCLMixin, MyModel): ...`, registered in `MODEL_REGISTRY`, and in the
    option file `model_type: MyNLCLModel`, a block `train.nlcl_opt` (see `AddonOptions`) and `network_p`. Without the
    block the model is the stock one.

    The loss is computed when `net_g` has run, on a copy of its output; its gradient is added to the output's own when
    the model's backward pass reaches it. So `net_g` still has one backward pass, in which distributed training adds up
    gradients once, and a step that does not train `net_g` does not train the heads. With weight 0 nothing is computed.

    `net_p` (projection heads) and `net_e` (the encoder, if that gives the features) are the last entry of `optimizers`
    and `schedulers`: a training state of the stock model can be resumed, with fresh heads. One with heads needs this
    class.

    Args:
        opt: BasicSR's option dict, with `network_p` (its `in_channels` is filled in) and, with `source: encoder`,
            `network_e`.

    Raises:
        InputError: If the options don't fit together.
    """

    addon_options: type[OptionsModel] = AddonOptions

    opt: dict[str, Any]
    device: torch.device
    net_g: nn.Module
    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]
    log_dict: dict[str, float]

    def __init__(self, opt: dict[str, Any]) -> None:
        block = opt["train"].get("nlcl_opt") if opt["is_train"] else None
        train = deepcopy(opt["train"]) if block else {}  # BasicSR takes entries out
        super().__init__(opt)  # type: ignore[call-arg]
        self.contrast: AddedContrast | None = None
        self.nlcl_nets: dict[str, nn.Module] = {}  # what the added losses train, by label
        if block:
            self.nlcl_opt = AddonOptions.model_validate(block)
            devices = [torch.cuda.current_device()] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices):
                self._build_contrast()
            self._setup_nlcl_optimizer(train)

    def _build_contrast(self) -> None:
        side = self.opt.get("datasets", {}).get("train", {}).get("gt_size", 128)
        images = self._image_channels(side)
        features: ModuleFeatures | nn.Module
        if self.nlcl_opt.features.source == "encoder":
            features = self.net_e = self._build_extra("e", "an encoder", "{type: FeatureEncoder}")
        else:
            features = self._module_features()
        self.contrast = AddedContrast(self.nlcl_opt, features, self.device)
        noise = torch.rand(2, 1, 3, side, side, device=self.device)[:, :, :images]
        try:  # now, as what does not fit would otherwise show in the first step only
            with torch.no_grad(), self.contrast.frozen():
                channels = [feature.shape[1] for feature in features(noise[0])]
            channels *= 2 if self.nlcl_opt.location_opt else 1
            self.net_p = self._build_extra("p", "projection heads", "{type: ProjectionHeads}", in_channels=channels)
            with torch.no_grad(), self.contrast.frozen():
                self.contrast(self.net_p, noise[0], noise[1], BatchRandom(0, 0, [0], 1))
        except (ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            kind, reason = "" if images == 3 else " of one channel", " ".join(str(error).split())[:300]
            raise InputError(f"train.nlcl_opt with crops of {side} pixels{kind}: {reason}") from error

    def _image_channels(self, side: int) -> int:
        """Channels of the images that net_g takes, 3 or 1, by a pass for outputs of so many pixels a side."""
        net = self.get_bare_model(self.net_g)  # type: ignore[attr-defined]
        scale = int(self.opt.get("scale", 1))
        for channels in (3, 1):
            rainy = torch.zeros(1, channels, side // scale, side // scale, device=self.device)
            try:
                with torch.no_grad(), ModuleFeatures(net, (), "").frozen():
                    output = net(rainy)
            except Exception as error:  # a network may raise anything on what it was not made for
                reason = " ".join(str(error).split())[:200]
                continue
            found = output.shape[-1] / rainy.shape[-1] if isinstance(output, Tensor) and output.dim() == 4 else scale
            if found != scale:
                raise InputError(
                    f"scale: is {scale}, but network_g enlarges by {found:g}; change one (network_g.upscale)"
                )
            return channels
        needed = [p for p in inspect.signature(net.forward).parameters.values() if p.default is p.empty]
        if len(needed) > 1:  # of a model of someone's own, which gives it more than an image
            return 3
        raise InputError(
            f"train.nlcl_opt: network_g ({type(net).__name__}) takes no images (B, 3 or 1, H, W): {reason}; "
            "use a network that does, or remove the block"
        )

    def _module_features(self) -> ModuleFeatures:
        options = self.nlcl_opt.features
        label = {"discriminator": "net_d", "generator": "net_g"}[options.source]
        if not hasattr(self, label):
            raise InputError(
                f"train.nlcl_opt.features.source: {options.source} means {label}, which "
                f"{type(self).__name__} lacks; use generator or encoder, or a model with a discriminator"
            )
        net = self.get_bare_model(getattr(self, label))  # type: ignore[attr-defined]
        return ModuleFeatures(net, options.modules, "train.nlcl_opt.features.modules")

    def _build_extra(self, label: str, what: str, example: str, **arguments: Any) -> nn.Module:
        key = f"network_{label}"
        if key not in self.opt:
            raise InputError(f"{key} is missing: train.nlcl_opt needs {what}; add {key}: {example}")
        net = self.model_to_device(build_network({**deepcopy(self.opt[key]), **arguments}))  # type: ignore[attr-defined]
        self.nlcl_nets[label] = net
        paths = self.opt["path"]
        file = paths.get(f"pretrain_network_{label}")
        if file and paths.get("resume_state") and not os.path.exists(file):  # a stock model's checkpoint
            get_root_logger().warning(f"{file} does not exist: net_{label} starts anew.")
        else:
            load_pretrained(self, net, label, paths.get(f"param_key_{label}", "params"))
        count = sum(p.numel() for p in net.parameters())
        get_root_logger().info(f"net_{label}: {self.opt[key]['type']}, {count:,d} parameters")
        return net

    def _setup_nlcl_optimizer(self, train: dict[str, Any]) -> None:
        options = self.nlcl_opt.optim_p or OptimizerOptions.model_validate(train["optim_g"])
        parameters = [p for net in self.nlcl_nets.values() for p in net.parameters()]
        self.optimizer_p = build_optimizer(options, parameters, "train.nlcl_opt.optim_p")
        self.optimizers.append(self.optimizer_p)
        if "scheduler" in train:
            scheduler = Built.model_validate(train["scheduler"])
            self.schedulers.append(build_scheduler(scheduler, self.optimizer_p, int(train["total_iter"])))

    def optimize_parameters(self, current_iter: int) -> None:
        """Take the model's own step of an iteration, counted from 1, with the losses added."""
        if self.contrast is None:
            super().optimize_parameters(current_iter)  # type: ignore[misc]
            return
        self.optimizer_p.zero_grad(set_to_none=True)
        addition = _Addition(self, current_iter)
        weighted = self.nlcl_opt.weight_at(current_iter) > 0
        handle = self.net_g.register_forward_hook(addition, with_kwargs=True) if weighted else None
        try:
            super().optimize_parameters(current_iter)  # type: ignore[misc]
        finally:
            if handle:
                handle.remove()
        if weighted and not addition.computed:
            raise InputError(f"train.nlcl_opt: {type(self).__name__} takes its step without a pass of net_g")
        if not addition.reached:
            self.optimizer_p.zero_grad(set_to_none=True)
        self.optimizer_p.step()  # without gradients it changes nothing, but the schedule knows that it is in use
        if addition.reached:
            self.log_dict = {**self.log_dict, **self.reduce_loss_dict(addition.losses)}  # type: ignore[attr-defined]

    def nlcl_gradient(
        self, output: Tensor, inputs: Tensor, current_iter: int
    ) -> tuple[Tensor, OrderedDict[str, Tensor]]:
        """Gradient of the weighted losses in net_g's output, and the losses to log; heads and encoder get their own."""
        assert self.contrast is not None
        rank, processes = (self.opt["rank"], self.opt["world_size"]) if self.opt["dist"] else (0, 1)
        images = processes * output.shape[0]
        # The sampler deals the draws of a batch out to the processes in turn.
        random = BatchRandom(self.opt.get("manual_seed") or 0, current_iter, range(rank, images, processes), images)
        # In full precision whatever the model's: in fp16 such small gradients are 0 without a scaler, which the heads
        # lack.
        leaf = output.detach().to(torch.promote_types(output.dtype, torch.float32)).requires_grad_()
        inputs = inputs.to(leaf.dtype)
        with torch.autocast(leaf.device.type, enabled=False), self.contrast.frozen():
            total, losses = self.contrast(self.net_p, leaf, inputs, random)
            (self.nlcl_opt.weight_at(current_iter) * total).backward()
        assert leaf.grad is not None
        return leaf.grad, losses

    def nlcl_loss_scale(self) -> float:
        """What the model multiplies its losses by, if it has a `GradScaler` of its own; else 1."""
        scalers = (value for value in vars(self).values() if isinstance(value, torch.amp.GradScaler))
        return next((scaler.get_scale() for scaler in scalers if scaler.is_enabled()), 1.0)

    def save(self, epoch: int, current_iter: int) -> None:
        """Save heads and encoder, then what the model saves: its training state has to come last."""
        for label, net in self.nlcl_nets.items():
            self.save_network(net, f"net_{label}", current_iter)  # type: ignore[attr-defined]
        super().save(epoch, current_iter)  # type: ignore[misc]

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Restore optimizers and schedules from a training state of this class or of the stock model."""
        if self.contrast and len(resume_state["optimizers"]) == len(self.optimizers) - 1:
            get_root_logger().warning("The training state has no projection heads: these start anew.")
            fresh = {
                name: [*resume_state[name], *(entry.state_dict() for entry in own[len(resume_state[name]) :])]
                for name, own in (("optimizers", self.optimizers), ("schedulers", self.schedulers))
            }
            resume_state = {**resume_state, **fresh}
        super().resume_training(resume_state)  # type: ignore[misc]


class _Addition:
    """Forward hook of `net_g` in one step: computes at its first trained pass, adds when the backward pass comes by."""

    def __init__(self, model: NLCLMixin, current_iter: int) -> None:
        self.model = model
        self.current_iter = current_iter
        self.computed = self.reached = False
        self.losses: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, _net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.computed or not torch.is_grad_enabled():
            return
        self.computed = True  # first, as features of net_g need passes of it
        values = (*args, *kwargs.values())
        inputs = next((value for value in values if isinstance(value, Tensor)), None)
        if not isinstance(output, Tensor) or inputs is None:
            raise InputError(
                "train.nlcl_opt: net_g must take and return images (B, C, H, W), but takes "
                f"{', '.join(type(value).__name__ for value in values)} and returns {type(output).__name__}"
            )
        if not output.requires_grad:
            return
        gradient, self.losses = self.model.nlcl_gradient(output, inputs, self.current_iter)

        def add(own: Tensor) -> Tensor | None:
            if self.reached:  # a second backward pass through the same output
                return None
            self.reached = True
            return own + (self.model.nlcl_loss_scale() * gradient).to(own.dtype)

        output.register_hook(add)


class NLCLSRModel(NLCLMixin, SRModel):
    """`SRModel` (EDSR, RCAN, RRDBNet and others) with NLCL."""


class NLCLSwinIRModel(NLCLMixin, SwinIRModel):
    """`SwinIRModel` with NLCL."""


class NLCLSRGANModel(NLCLMixin, SRGANModel):
    """`SRGANModel` with NLCL."""


class NLCLESRGANModel(NLCLMixin, ESRGANModel):
    """`ESRGANModel` with NLCL."""
