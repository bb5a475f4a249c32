"""The `train` block of `NLCLModel`'s option file: every key, its type, range, default and meaning."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from nlcl_plugin.rain.variation import RainVariation, Range


class Block(BaseModel):
    """A block of options that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Built(BaseModel):
    """A block with a `type` whose other keys are arguments of that type's constructor."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    type: str = Field(description="Name in the registry.")

    def build_options(self) -> dict[str, Any]:
        """What BasicSR's `build_*` functions take."""
        return {"type": self.type, **(self.model_extra or {})}


class OptimizerOptions(Built):
    """An optimizer: `type`, `lr` and the arguments of its constructor."""

    lr: float = Field(gt=0, description="Learning rate.")

    def arguments(self) -> dict[str, Any]:
        """Arguments of the optimizer's constructor but the parameters."""
        return {"lr": self.lr, **(self.model_extra or {})}


class LossBlock(Built):
    """A loss of BasicSR's registry; `type` and the loss's own arguments."""

    @model_validator(mode="after")
    def _check_arguments(self, info: ValidationInfo) -> LossBlock:
        if info.context is not None:  # the check of an option file, which knows the registry
            info.context(self)
        return self


class LossOptions(LossBlock):
    """A loss whose weight may rise."""

    ramp_iter: int = Field(0, ge=0, description="Iterations over which the weight rises linearly from 0 to full.")

    def weight_at(self, current_iter: int) -> float:
        """Factor of the ramp at an iteration (counted from 1)."""
        return min(1.0, current_iter / self.ramp_iter) if self.ramp_iter else 1.0


class LocationPlaces(Block):
    """How many places location contrast compares."""

    num_patches: int = Field(256, ge=2, description="Places an image.")


class LocationSampling(LocationPlaces):
    """Which places location contrast compares."""

    taps: tuple[int, ...] = Field((0, 2, 4, 8, 12), min_length=1, description="Feature taps of net_g.")
    on_clean: bool = Field(True, description="Also compare B(C) with C, as CUT's identity term does.")


class LayerPatches(Block):
    """How many patches layer contrast compares, and from where."""

    num_queries: int = Field(1, ge=1, description="Query patches an image; each has neighbours of its own.")
    num_image_patches: int = Field(8, ge=2, description="Neighbours of a query in B, the query included.")
    num_rain_patches: int = Field(128, ge=2, description="Neighbours of a query in R, the query included.")
    patch_size: int = Field(16, ge=1, description="Side of a patch in pixels.")
    search_size: int = Field(40, ge=1, description="Side of the search window in pixels.")


class LayerSampling(LayerPatches):
    """Which patches layer contrast compares."""

    taps: tuple[int, ...] = Field((0, 3, 7, 11), min_length=1, description="Feature taps of net_d.")


class CompositePatches(Block):
    """Which patches layer contrast compares on composites: pixels, not features."""

    num_queries: int = Field(64, ge=1, description="Anchors an image and layer.")
    num_candidates: int = Field(
        1, ge=1, description="Places drawn for each anchor, of which the rainiest are kept; with 1 they are anywhere."
    )
    num_positives: int = Field(
        4, ge=1, description="Clean patches that attract an image patch: the one under it and its neighbours."
    )
    num_negatives: int = Field(4, ge=1, description="Places whose rain (or texture) is left in, and is overdone.")
    strength: float = Field(0.5, gt=0, description="How much of it.")
    patch_size: int = Field(8, ge=1, description="Side of a patch in pixels.")
    search_size: int = Field(32, ge=1, description="Side of the search window in pixels.")
    neighbours: Literal["nonlocal", "random"] = Field(
        "nonlocal", description="The nearest patches of the window; or, as a control, patches from anywhere."
    )


class LocationLossOptions(LossOptions):
    """Location contrast."""

    sampling: LocationSampling = Field(LocationSampling(), description="Which places are compared.")


class LayerLossOptions(LossOptions):
    """Layer contrast."""

    sampling: LayerSampling = Field(LayerSampling(), description="Which patches are compared.")


class CompositeLossOptions(LossOptions):
    """Layer contrast on composites (ours); see `models.composite_contrast`."""

    sampling: CompositePatches = Field(CompositePatches(), description="Which patches are compared.")

    @model_validator(mode="after")
    def _check(self) -> CompositeLossOptions:
        if self.build_options().get("gather_negatives"):
            raise ValueError("gather_negatives: each patch has negatives of its own here: leave it out")
        return self


class RestorerOptions(RainVariation):
    """Stage 2: a new network is trained on pseudo-pairs of clean images and extracted rain; stage 1 is frozen."""

    start_iter: int = Field(
        ge=0,
        description="Iterations of stage 1; stage 2 begins with the next. With 0 and no loss of stage 1 there is no "
        "stage 1 and no network of it: the restorer is trained on rendered rain until the first of `rounds`.",
    )
    pixel_opt: LossOptions = Field(LossOptions(type="L1Loss"), description="Loss between output and clean image.")
    composite_opt: CompositeLossOptions | None = Field(None, description="Layer contrast on the pseudo-pairs.")
    rounds: tuple[int, ...] = Field(
        (),
        description="Iterations of stage 2 after each of which the restorer of that moment is what extracts the rain, "
        "in place of stage 1 or the one before: its layers have less texture in them. 0 is for a restorer with "
        "weights to begin with.",
    )
    round_gain: Range | None = Field(
        None,
        description="`gain` after the first round; by default `gain` itself. The restorer's own rain is not too faint: "
        "a range around 1 keeps rounds from making it ever brighter.",
    )

    @model_validator(mode="after")
    def _check_rounds(self) -> RestorerOptions:
        if list(self.rounds) != sorted(set(self.rounds)) or any(end < 0 for end in self.rounds):
            raise ValueError(f"rounds must be rising iterations of stage 2, from 0, but received {list(self.rounds)}")
        if self.round_gain is not None and not 0 < self.round_gain[0] <= self.round_gain[1]:
            raise ValueError(f"round_gain must be [low, high] with 0 < low <= high, but received {[*self.round_gain]}")
        return self

    def variation(self, rounds: int) -> RainVariation:
        """How rain is varied after as many rounds."""
        return self.model_copy(update={"gain": self.round_gain}) if rounds and self.round_gain else self


# Losses of stage 1.
STAGE_ONE = (
    *("gan_opt", "location_opt", "layer_opt", "consistency_opt"),
    *("fidelity_opt", "identity_opt", "relay_opt", "composite_opt"),
)


class UnpairedOptions(Block):
    """What an iteration does, in whichever framework: losses, stages, averages."""

    ema_decay: float = Field(0.0, ge=0, lt=1, description="Decay of the moving average of the networks; 0 for none.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts that a batch goes through in one by one: the memory of a part, the step of the batch.",
    )
    on_nonfinite: Literal["stop", "skip"] = Field(
        "stop", description="At a NaN or infinity in a loss or gradient: stop, or leave the step out and count it."
    )
    gan_opt: LossOptions | None = Field(None, description="Adversarial loss: B against unpaired clean images.")
    location_opt: LocationLossOptions | None = Field(None, description="Location contrast of B and O.")
    layer_opt: LayerLossOptions | None = Field(None, description="Layer contrast (NLCL) of B and R.")
    consistency_opt: LossOptions | None = Field(None, description="B + R against O; two_branch only.")
    fidelity_opt: LossOptions | None = Field(None, description="B against O.")
    identity_opt: LossOptions | None = Field(None, description="B(C) against C.")
    relay_opt: LossOptions | None = Field(None, description="On composites (ours): B(clip(C + sg(R))) against C.")
    composite_opt: CompositeLossOptions | None = Field(
        None, description="Layer contrast on clip(C + sg(R)), where both layers are known (ours)."
    )
    restorer_opt: RestorerOptions | None = Field(None, description="Stage 2: a restorer on pseudo-pairs.")
    dimension_freq: int = Field(
        0,
        ge=0,
        description="Iterations from one measurement of both layers' intrinsic dimensions to the next, for the log and "
        "for asymmetry: auto; 0 for none.",
    )
    min_mean_rain: float = Field(
        0.001, ge=0, le=1, description="Training stops when the running mean of |R| stays below this; 0 never stops."
    )
    collapse_iter: int = Field(200, ge=1, description="Iterations before min_mean_rain is looked at.")

    @model_validator(mode="after")
    def _check_losses(self) -> UnpairedOptions:
        if not self.has_stage_one and not (self.restorer_opt and self.restorer_opt.start_iter == 0):
            raise ValueError("no loss of stage 1 is given: add at least gan_opt, or restorer_opt with start_iter: 0")
        if self.restorer_opt and self.restorer_opt.round_gain is not None and not self.restorer_opt.rounds:
            raise ValueError("restorer_opt.round_gain: there are no rounds; add restorer_opt.rounds")
        if self.dimension_freq and not self.has_stage_one:
            raise ValueError("dimension_freq: dimensions are measured in stage 1, which is not trained; remove it")
        if self.layer_opt is not None and self.gan_opt is None:
            raise ValueError("layer_opt uses features of net_d, which only gan_opt trains: add gan_opt")
        restorer = self.restorer_opt.composite_opt if self.restorer_opt else None
        contrasts = (self.layer_opt, self.composite_opt, restorer)
        if not self.dimension_freq and any(c and c.build_options().get("asymmetry") == "auto" for c in contrasts):
            raise ValueError("asymmetry: auto follows measured dimensions: add dimension_freq, such as 25")
        return self

    @property
    def has_stage_one(self) -> bool:
        """Whether there is a loss of stage 1, and with it the networks of stage 1."""
        return any(getattr(self, key) for key in STAGE_ONE)

    def restores(self, current_iter: int) -> bool:
        """Whether an iteration (counted from 1) is one of stage 2."""
        return self.restorer_opt is not None and current_iter > self.restorer_opt.start_iter


class TrainOptions(UnpairedOptions):
    """The `train` block of NLCLModel."""

    total_iter: int = Field(gt=0, le=10**10, description="Iterations, stage 2 included.")
    warmup_iter: int = Field(-1, description="Iterations of linear learning-rate warm-up; -1 for none.")
    optim_g: OptimizerOptions | None = Field(None, description="Optimizer of net_g and net_r; needed with stage 1.")
    optim_d: OptimizerOptions | None = Field(None, description="Optimizer of net_d; optim_g's options by default.")
    optim_p: OptimizerOptions | None = Field(None, description="Optimizer of net_p; optim_g's options by default.")
    optim_s: OptimizerOptions | None = Field(None, description="Optimizer of net_s; needed with restorer_opt.")
    scheduler: Built = Field(description="LinearDecayLR (ours), a scheduler of BasicSR, or one of torch.optim.")
    amp: Literal["bf16", "fp16"] | None = Field(None, description="Precision of the networks; the losses stay in fp32.")
    channels_last: bool = Field(False, description="Memory layout of the networks; faster in half precision on a GPU.")
    compile: bool = Field(False, description="Compile the networks with torch.compile.")
    grad_clip: float | None = Field(None, gt=0, description="Largest gradient norm of each optimizer's networks.")

    @model_validator(mode="after")
    def _check_stages(self) -> TrainOptions:
        if self.has_stage_one and self.optim_g is None:
            raise ValueError("optim_g is missing: it is the optimizer of stage 1")
        if self.restorer_opt is not None:
            if self.optim_s is None:
                raise ValueError("restorer_opt needs optim_s")
            if self.restorer_opt.start_iter >= self.total_iter:
                raise ValueError(
                    f"restorer_opt.start_iter ({self.restorer_opt.start_iter}) must be below total_iter "
                    f"({self.total_iter})"
                )
        return self
