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
from nlcl_plugin.models.unpaired_iteration import bare

# Optimizers by name, and which networks of `NLCLDerain` each steps.
NETWORKS = {
    "generator": ("generator", "rain_generator"),
    "discriminator": ("discriminator",),
    "heads": ("heads",),
    "restorer": ("restorer",),
}


class Bf16OptimWrapper(OptimWrapper):
    """Mixed precision with bfloat16 on any device; its range needs no loss scaling.

    MMEngine's `AmpOptimWrapper`, for float16 as well, wants a GPU.

    Args:
        **kwargs: Arguments of `OptimWrapper`.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the networks in bfloat16."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, dtype=torch.bfloat16):
            yield


class _OneScale:
    """A loss scaler that several wrappers share; only `WrapperStepper` updates it, once a step."""

    def __init__(self, scaler: Any) -> None:
        self.scaler = scaler

    def update(self, new_scale: float | None = None) -> None:
        """Leave the scale as it is until all wrappers have stepped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["scaler"], name)


class _StartingDict(OptimWrapperDict):
    def initialize_count_status(self, model: nn.Module, cur_iter: int, max_iters: int) -> None:
        """Tell the model where the training begins; the Runner calls it before the first iteration."""
        start_at: Any = bare(model).start_at
        start_at(cur_iter)


class NLCLOptimWrapperConstructor:
    """Builds an optimizer wrapper for each of generator (with rain_generator), discriminator, heads and restorer.

    Args:
        optim_wrapper_cfg: `type` and arguments of all wrappers, `optimizer` of all networks, and, by the names above,
            optimizers of single ones.
        paramwise_cfg: Not supported.

    Raises:
        InputError: If something is given that is not supported.

    Example:
        optim_wrapper = dict(
            constructor='NLCLOptimWrapperConstructor',
            type='OptimWrapper',  # AmpOptimWrapper on a GPU; Bf16OptimWrapper anywhere
            optimizer=dict(type='Adam', lr=5e-4, betas=(0.5, 0.999)),
            restorer=dict(type='Adam', lr=1e-3))
    """

    def __init__(self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None) -> None:
        if paramwise_cfg:
            raise InputError("optim_wrapper.paramwise_cfg: not supported; give each network an optimizer of its own")
        if optim_wrapper_cfg.get("accumulative_counts", 1) != 1:
            raise InputError(
                "optim_wrapper.accumulative_counts: not supported; model.train_cfg.accumulate takes a batch in parts"
            )
        if "optimizer" not in optim_wrapper_cfg:
            raise InputError("optim_wrapper.optimizer is missing: give the optimizer of all networks")
        cfg = dict(copy.deepcopy(optim_wrapper_cfg))
        default = cfg.pop("optimizer")
        self.optimizers = {name: cfg.pop(name, default) for name in NETWORKS}
        self.wrapper = {"type": "OptimWrapper", **cfg}

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        """Build the wrappers of those networks that the model has."""
        model = bare(model)
        wrappers: dict[str, Any] = {}
        for name, networks in NETWORKS.items():
            parameters = [p for net in networks if hasattr(model, net) for p in getattr(model, net).parameters()]
            if parameters:
                wrappers[name] = self._build(name, parameters)
        first = next(iter(wrappers.values()))
        if hasattr(first, "loss_scaler"):
            # One scale for all networks: the heads learn from the generator's loss.
            scale = _OneScale(first.loss_scaler)
            for wrapper in wrappers.values():
                wrapper.loss_scaler = scale
        return _StartingDict(**wrappers)

    def _build(self, name: str, parameters: list[Any]) -> OptimWrapper:
        try:
            optimizer = OPTIMIZERS.build({**copy.deepcopy(self.optimizers[name]), "params": parameters})
            return OPTIM_WRAPPERS.build(copy.deepcopy(self.wrapper), default_args={"optimizer": optimizer})
        except (TypeError, ValueError, KeyError, AssertionError) as error:
            raise InputError(f"optim_wrapper, {name}: {' '.join(str(error).split())}") from error


class WrapperStepper:
    """`models.stepper.Stepper` by MMEngine's wrappers: their precision, scaling and clipping.

    Args:
        wrappers: Of `NLCLOptimWrapperConstructor`.
        model: The model.
    """

    def __init__(self, wrappers: OptimWrapperDict, model: nn.Module) -> None:
        self._first: Any = next(iter(wrappers.values()))
        self._model = model
        self._scale = getattr(self._first, "loss_scaler", None)

    @property
    def scales(self) -> bool:
        """Whether losses are scaled."""
        return self._scale is not None

    @property
    def clips(self) -> bool:
        """Whether gradients are clipped and their norms known."""
        return bool(self._first.clip_grad_kwargs)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of the wrappers."""
        return self._first.optim_context(self._model)

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients."""
        self._first.backward(loss)

    def clip(self, optimizers: dict[str, Any]) -> dict[str, Tensor]:
        """Norms of the gradients; the wrappers clip when they step."""
        if self.scales:
            return {}
        return {
            name: torch.nn.utils.clip_grad_norm_(
                [p for group in wrapper.param_groups for p in group["params"] if p.grad is not None], float("inf")
            )
            for name, wrapper in optimizers.items()
        }

    def step(self, optimizers: dict[str, Any]) -> None:
        """Clip and step each optimizer, then update the scale."""
        for wrapper in optimizers.values():
            wrapper.step()
        if self._scale is not None:
            self._scale.scaler.update(self._first._scale_update_param)

    def leave_out(self) -> None:
        """Nothing: a scale changes with the gradients that it has been taken out of, and here there are none."""
