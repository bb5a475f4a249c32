"""The one place where parts of this package enter BasicSR's registries."""

from __future__ import annotations

from typing import Any


def register_in_basicsr() -> None:
    """Register every architecture, loss, dataset and model; calling it again changes nothing.

    Raises:
        AssertionError: If another package has taken one of our names.
    """
    from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY

    from nlcl_plugin import archs, losses
    from nlcl_plugin.data import PseudoPairDataset, UnpairedImageDataset
    from nlcl_plugin.models.nlcl_mixin import NLCLESRGANModel, NLCLSRGANModel, NLCLSRModel, NLCLSwinIRModel
    from nlcl_plugin.models.nlcl_model import NLCLModel

    architectures = (
        archs.ContextUNet,
        archs.FeatureEncoder,
        archs.LayerGenerator,
        archs.PatchDiscriminator,
        archs.ProjectionHeads,
        archs.ResidualUNet,
        archs.SimpleGateUNet,
    )
    models = (NLCLModel, NLCLSRModel, NLCLSwinIRModel, NLCLSRGANModel, NLCLESRGANModel)
    register(ARCH_REGISTRY, *architectures)
    register(LOSS_REGISTRY, losses.AsymmetricNLCLLoss, losses.LocationContrastLoss, losses.RelayLoss)
    register(DATASET_REGISTRY, UnpairedImageDataset, PseudoPairDataset)
    register(MODEL_REGISTRY, *models)


def register(registry: Any, *classes: type) -> None:
    """Register classes under their own names in a `basicsr.utils.registry.Registry`.

    Raises:
        AssertionError: If a name belongs to another class.
    """
    for cls in classes:
        if registry._obj_map.get(cls.__name__) is not cls:
            registry.register(cls)
