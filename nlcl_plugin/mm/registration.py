"""The one place where parts of this package enter MMEngine's registries."""

from __future__ import annotations

from typing import Any

from mmengine import registry as mm

from nlcl_plugin import archs, losses
from nlcl_plugin.mm import checkpoints, data, derain, hooks, loops, metrics, optim, restoration_losses


def register_in_mmengine() -> None:
    """Register every part; calling it again changes nothing. Losses are models, as MMEngine has no registry for them.

    Raises:
        RuntimeError: If another package has taken one of our names.
    """
    for registry, classes in (
        (
            mm.MODELS,
            (
                *(archs.LayerGenerator, archs.PatchDiscriminator, archs.ProjectionHeads),
                *(archs.ResidualUNet, archs.SimpleGateUNet, archs.FeatureEncoder),
                *(losses.AsymmetricNLCLLoss, losses.LocationContrastLoss, losses.RelayLoss),
                *(restoration_losses.GANLoss, restoration_losses.L1Loss, restoration_losses.MSELoss),
                restoration_losses.CharbonnierLoss,
                *(derain.NLCLDerain, derain.UnitRangePreprocessor),
            ),
        ),
        (mm.DATASETS, (data.UnpairedImageDataset, data.PseudoPairDataset, data.PairedImageDataset)),
        (mm.TRANSFORMS, (data.AddRenderedRain,)),
        (mm.DATA_SAMPLERS, (data.EpochSampler, data.EndlessBatchSampler)),
        (mm.LOOPS, (loops.ResumableTrainLoop,)),
        (mm.METRICS, (metrics.PSNR, metrics.SSIM, metrics.NIQE)),
        (
            mm.HOOKS,
            (
                *(hooks.CurrentLossesHook, hooks.LayerStripHook, hooks.StopOnSignalHook),
                checkpoints.WholeCheckpointHook,
            ),
        ),
        (mm.OPTIM_WRAPPERS, (optim.Bf16OptimWrapper,)),
        (mm.OPTIM_WRAPPER_CONSTRUCTORS, (optim.NLCLOptimWrapperConstructor,)),
    ):
        for cls in classes:
            register(registry, cls)


def register(registry: Any, cls: type) -> None:
    """Register a class under its own name in a registry of MMEngine.

    Args:
        registry: A `mmengine.registry.Registry`.
        cls: The class.

    Raises:
        RuntimeError: If the name belongs to another class.
    """
    taken = registry.module_dict.get(cls.__name__)
    if taken is None:
        registry.register_module(module=cls)
    elif taken is not cls:
        raise RuntimeError(
            f"{cls.__name__!r} is already registered in MMEngine's {registry.name} registry by {taken.__module__}: "
            f"{cls.__module__} cannot register its own; import only one of the two packages"
        )
