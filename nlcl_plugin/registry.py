"""The one place where parts of this package enter BasicSR's registries."""

from __future__ import annotations

from typing import Any


def register_in_basicsr() -> None:
    """Register every architecture, loss, dataset and model; calling it again changes nothing.

    Raises:
        RuntimeError: If another package has taken one of our names.
    """
    from basicsr.utils import registry as basicsr_registry

    from nlcl_plugin import archs, losses
    from nlcl_plugin.data import PseudoPairDataset, UnpairedImageDataset
    from nlcl_plugin.models.nlcl_mixin import NLCLESRGANModel, NLCLSRGANModel, NLCLSRModel, NLCLSwinIRModel
    from nlcl_plugin.models.nlcl_model import NLCLModel

    for registry, classes in (
        (
            basicsr_registry.ARCH_REGISTRY,
            (
                archs.FeatureEncoder,
                archs.LayerGenerator,
                archs.PatchDiscriminator,
                archs.ProjectionHeads,
                archs.ResidualUNet,
                archs.SimpleGateUNet,
            ),
        ),
        (
            basicsr_registry.LOSS_REGISTRY,
            (losses.AsymmetricNLCLLoss, losses.LocationContrastLoss, losses.RelayLoss),
        ),
        (basicsr_registry.DATASET_REGISTRY, (UnpairedImageDataset, PseudoPairDataset)),
        (
            basicsr_registry.MODEL_REGISTRY,
            (NLCLModel, NLCLSRModel, NLCLSwinIRModel, NLCLSRGANModel, NLCLESRGANModel),
        ),
    ):
        for cls in classes:
            register(registry, cls)


def register(registry: Any, cls: type) -> None:
    """Register a class under its own name in a BasicSR registry.

    Args:
        registry: A `basicsr.utils.registry.Registry`.
        cls: The class.

    Raises:
        RuntimeError: If the name belongs to another class.
    """
    if cls.__name__ not in registry:
        registry.register(cls)
        return
    taken = registry.get(cls.__name__)
    if taken is not cls:
        raise RuntimeError(
            f"{cls.__name__!r} is already registered in BasicSR's {registry._name} registry by {taken.__module__}: "
            f"{cls.__module__} cannot register its own; import only one of the two packages"
        )
