"""Losses: pure functions and thin modules that need torch alone."""

from nlcl_plugin.losses.layer_contrast_loss import AsymmetricNLCLLoss, layer_contrast, layer_contrast_floor
from nlcl_plugin.losses.location_contrast_loss import LocationContrastLoss, location_contrast
from nlcl_plugin.losses.relay_loss import RelayLoss, lay_rain

__all__ = [
    "AsymmetricNLCLLoss",
    "LocationContrastLoss",
    "RelayLoss",
    "lay_rain",
    "layer_contrast",
    "layer_contrast_floor",
    "location_contrast",
]
