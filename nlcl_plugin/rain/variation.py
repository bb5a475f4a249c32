"""How rain is varied before it is laid on clean images: keys, ranges and defaults, wherever pseudo-pairs are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Range = tuple[float, float]
Fraction = Annotated[float, Field(ge=0, le=1)]


class RainVariation(BaseModel):
    """Ranges of the variation; `train.restorer_opt` and the block of a `PseudoPairDataset` take these keys.

    Raises:
        ValueError: If a value is out of range or a key unknown (pydantic's `ValidationError`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    gain: Range = Field((0.7, 1.3), description="Range of the factor on each rain layer.")
    threshold: Fraction = Field(0.03, description="Rain below this, in [0, 1], is set to 0: it is texture.")
    resize: Range = Field((0.7, 1.4), description="Range of the factor by which rain layers are resized.")
    flip: bool = Field(True, description="Flip rain layers, horizontally and vertically.")
    layers: int = Field(1, ge=1, description="Rain layers of as many images that one composite may carry (maximum).")
    rendered: Fraction = Field(0.0, description="Fraction of pairs whose rain is rendered, not extracted.")
    renderer: Literal["demo", "photograph"] = Field(
        "demo",
        description="How rain is rendered: the demo's streaks, or the variety of photographs (`rain.photographic`).",
    )
    rain_free: Fraction = Field(0.1, description="Fraction of pairs without rain, which keep clean images.")
    structure: Fraction = Field(
        0.0,
        description="Fraction of clean images into which thin structure is drawn, which must stay: cables, letters.",
    )
    screen: Fraction = Field(0.0, description="Fraction of pairs blended by C + R (1 - C), not clip(C + R).")
    air_light: Fraction = Field(
        0.0,
        description="Of the other pairs, fraction blended by C + R max(A - C, 0), with a grey air-light A in [0.6, 1].",
    )
    noise: Fraction = Field(
        0.0,
        description="Largest standard deviation of noise, in [0, 1], the same on both images of a pair.",
    )
    sharpen: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Largest amount of sharpening (unsharp mask), the same on both images; a third of them is blurred.",
    )
    jpeg: Fraction = Field(
        0.0, description="Fraction of pairs of which both images are compressed as JPEG, after the rain."
    )

    @model_validator(mode="after")
    def _check(self) -> RainVariation:
        for name in ("gain", "resize"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be [low, high] with 0 < low <= high, but received [{low}, {high}]")
        if self.renderer != "demo" and self.rendered == 0:
            raise ValueError(f"renderer: {self.renderer} renders nothing with rendered: 0; set rendered to a fraction")
        return self
