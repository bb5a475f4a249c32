"""The block `train.nlcl_opt`: what `NLCLMixin` adds to a BasicSR model. Every key, its type, range and default."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nlcl_plugin.config.train_options import Block, LayerPatches, LocationPlaces, LossBlock, OptimizerOptions


class FeatureOptions(Block):
    """Whose features are compared."""

    source: Literal["discriminator", "generator", "encoder"] = Field(
        description="net_d or net_g, which the loss does not train, or network_e, which it does."
    )
    modules: tuple[str, ...] = Field(
        (), description="Modules of net_d or net_g, as in named_modules(), whose outputs (B, C, H, W) are the features."
    )

    @model_validator(mode="after")
    def _check(self) -> FeatureOptions:
        if self.source == "encoder" and self.modules:
            raise ValueError("modules go with discriminator or generator; all levels of network_e are used")
        if self.source != "encoder" and not self.modules:
            raise ValueError(f"name at least one of the {self.source}'s modules in modules")
        if len(set(self.modules)) < len(self.modules):
            raise ValueError("modules names one module twice")
        return self


class AddonLayerOptions(LossBlock):
    """Layer contrast of (B, R)."""

    sampling: LayerPatches = Field(LayerPatches(), description="Which patches are compared.")


class AddonLocationOptions(LossBlock):
    """Location contrast of B and the input."""

    sampling: LocationPlaces = Field(LocationPlaces(), description="Which places are compared.")


class AddonOptions(Block):
    """The block `train.nlcl_opt`."""

    loss_weight: float = Field(1.0, ge=0, description="Weight of both losses; 0 trains exactly as the stock model.")
    ramp_iter: int = Field(0, ge=0, description="Iterations over which the weight rises linearly from 0 to full.")
    features: FeatureOptions = Field(description="Whose features are compared.")
    layer_opt: AddonLayerOptions = Field(
        AddonLayerOptions(type="AsymmetricNLCLLoss"), description="Layer contrast (NLCL) of B and R."
    )
    location_opt: AddonLocationOptions | None = Field(None, description="Location contrast of B and the input.")
    optim_p: OptimizerOptions | None = Field(
        None, description="Optimizer of the heads and network_e; train.optim_g's options by default."
    )

    @model_validator(mode="after")
    def _check(self) -> AddonOptions:
        if self.layer_opt.build_options().get("asymmetry") == "auto":
            raise ValueError("layer_opt: asymmetry: auto needs dimensions, which are not measured here; use fixed")
        return self

    def weight_at(self, current_iter: int) -> float:
        """Weight at an iteration (counted from 1)."""
        return self.loss_weight * (min(1.0, current_iter / self.ramp_iter) if self.ramp_iter else 1.0)
