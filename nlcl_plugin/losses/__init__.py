"""Losses: pure functions and thin modules that need torch alone."""

from nlcl_plugin.losses.contrast_forms import anchor_losses
from nlcl_plugin.losses.layer_contrast_loss import (
    AsymmetricNLCLLoss,
    References,
    layer_contrast,
    layer_contrast_floor,
    reference_contrast,
)
from nlcl_plugin.losses.location_contrast_loss import LocationContrastLoss, location_contrast
from nlcl_plugin.losses.relay_loss import RelayLoss, lay_rain

__all__ = [
    "AsymmetricNLCLLoss",
    "LocationContrastLoss",
    "References",
    "RelayLoss",
    "anchor_losses",
    "lay_rain",
    "layer_contrast",
    "layer_contrast_floor",
    "location_contrast",
    "reference_contrast",
]
