"""Several optimizers in MMEngine: how they are built, in which precision, and how they step."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS, OPTIMIZERS
from torch import Tensor, nn

from nlcl_plugin.errors import InputError
from nlcl_plugin.models.optimization import Stepper
from nlcl_plugin.models.unpaired_iteration import bare

NAMES = ("generator", "discriminator", "heads", "restorer")  # of optimizers, and of the networks that they step


class Bf16OptimWrapper(OptimWrapper):
    """Mixed precision with bfloat16 on any device, where MMEngine's `AmpOptimWrapper` needs a GPU; no loss scaling."""

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the networks in bfloat16."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


class _OneScale:
    """A loss scaler that several wrappers share; only `WrapperStepper` updates it, once per step."""

    def __init__(self, scaler: Any) -> None:
        self.scaler = scaler

    def update(self, new_scale: float | None = None) -> None:
        """Leave the scale as it is until all wrappers have stepped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["scaler"], name)


class _StartingDict(OptimWrapperDict):
    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Called by the Runner before the first iteration."""
        start_at: Any = bare(model).start_at
        start_at(cur_iter)


class NLCLOptimWrapperConstructor:
    """Builds an optimizer wrapper for each of generator (with rain_generator), discriminator, heads and restorer.

    `optimizer` is that of all networks, except of those that have one by the names above. Neither `paramwise_cfg` nor
    `accumulative_counts` is supported.

    Example:
        optim_wrapper = dict(
            constructor='NLCLOptimWrapperConstructor',
            type='OptimWrapper',  # AmpOptimWrapper on a GPU; Bf16OptimWrapper anywhere
            optimizer=dict(type='Adam', lr=5e-4, betas=(0.5, 0.999)),
            restorer=dict(type='Adam', lr=1e-3))
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        cfg = {"type": "OptimWrapper", **copy.deepcopy(optim_wrapper_cfg)}
        if paramwise_cfg:
            raise InputError("optim_wrapper.paramwise_cfg: not supported; give each network an optimizer of its own")
        if cfg.get("accumulative_counts", 1) != 1:
            raise InputError("optim_wrapper.accumulative_counts: not supported; use model.train_cfg.accumulate")
        default = cfg.pop("optimizer")
        self.optimizers = {name: cfg.pop(name, default) for name in NAMES}
        self.wrapper = cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the wrappers of those networks that the model has."""
        model = bare(model)
        wrappers: dict[str, Any] = {}
        for name in NAMES:
            networks = ("generator", "rain_generator") if name == "generator" else (name,)
            parameters = [p for net in networks if hasattr(model, net) for p in getattr(model, net).parameters()]
            if not parameters:
                continue
            try:
                optimizer = OPTIMIZERS.build({**copy.deepcopy(self.optimizers[name]), "params": parameters})
                wrapper = copy.deepcopy(self.wrapper)
                wrappers[name] = OPTIM_WRAPPERS.build(wrapper, default_args={"optimizer": optimizer})
            except (TypeError, ValueError, KeyError, AssertionError) as error:
                raise InputError(f"optim_wrapper, {name}: {' '.join(str(error).split())}") from error
        first = next(iter(wrappers.values()))
        if hasattr(first, "loss_scaler"):
            # One scale for all networks: the heads learn from the generator's loss.
            scale = _OneScale(first.loss_scaler)
            for wrapper in wrappers.values():
                wrapper.loss_scaler = scale
        return _StartingDict(**wrappers)


class WrapperStepper(Stepper):
    """The same by MMEngine's wrappers, of `NLCLOptimWrapperConstructor`: their precision, scaling and clipping."""

    def __init__(self, wrappers: OptimWrapperDict, model: nn.Module) -> None:
        self._first: Any = next(iter(wrappers.values()))
        self._model = model
        self._scale = getattr(self._first, "loss_scaler", None)
        self.scales = self._scale is not None
        self.clips = bool(self._first.clip_grad_kwargs)

    def autocast(self) -> Any:
        """The precision of the wrappers."""
        return self._first.optim_context(self._model)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self._first.backward(loss)

    def clip(self, optimizers: dict[str, Any]) -> dict[str, Tensor]:
        """Norms of the gradients, without loss scaling; the wrappers clip when they step."""
        if self.scales:
            return {}
        parameters = {
            name: [p for group in wrapper.param_groups for p in group["params"] if p.grad is not None]
            for name, wrapper in optimizers.items()
        }
        return {name: torch.nn.utils.clip_grad_norm_(own, float("inf")) for name, own in parameters.items()}

    def step(self, optimizers: dict[str, Any]) -> None:
        """Clip and step each optimizer, then update the scale."""
        for wrapper in optimizers.values():
            wrapper.step()
        if self._scale is not None:
            self._scale.scaler.update(self._first._scale_update_param)

    def leave_out(self) -> None:
        """Nothing: the scale changes only with gradients that were unscaled."""
