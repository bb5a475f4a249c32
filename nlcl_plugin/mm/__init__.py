"""The parts of this package in MMEngine: `custom_imports = dict(imports=['nlcl_plugin.mm'])` in a config.

Registers networks, losses (with those of BasicSR that a training of ours needs), the model, datasets, samplers,
metrics, hooks and optimizer wrappers in MMEngine's root registries, in which those of other projects look too.
"""

from __future__ import annotations

from basicsr.losses.basic_loss import CharbonnierLoss, L1Loss, MSELoss
from basicsr.losses.gan_loss import GANLoss
from mmengine import registry as mm

from nlcl_plugin import archs, losses
from nlcl_plugin.mm import checkpoints, data, hooks, metrics, optim
from nlcl_plugin.mm.derain import NLCLDerain, UnitRangePreprocessor

__all__ = ["NLCLDerain", "UnitRangePreprocessor", "register_in_mmengine"]


def register_in_mmengine() -> None:
    """Register every part; calling it again changes nothing. Losses are models, as MMEngine has no registry for them.

    Raises:
        KeyError: If another package has taken one of our names.
    """
    for registry, classes in (
        (mm.MODELS, (archs.LayerGenerator, archs.PatchDiscriminator, archs.ProjectionHeads, archs.ResidualUNet)),
        (mm.MODELS, (archs.SimpleGateUNet, archs.ContextUNet, archs.FeatureEncoder)),
        (mm.MODELS, (losses.AsymmetricNLCLLoss, losses.LocationContrastLoss, losses.RelayLoss)),
        (mm.MODELS, (GANLoss, L1Loss, MSELoss, CharbonnierLoss)),
        (mm.MODELS, (NLCLDerain, UnitRangePreprocessor)),
        (mm.DATASETS, (data.UnpairedImageDataset, data.PseudoPairDataset, data.PairedImageDataset)),
        (mm.DATA_SAMPLERS, (data.EpochSampler, data.EndlessBatchSampler)),
        (mm.LOOPS, (hooks.ResumableTrainLoop,)),
        (mm.METRICS, (metrics.PSNR, metrics.SSIM, metrics.NIQE)),
        (mm.HOOKS, (hooks.CurrentLossesHook, hooks.LayerStripHook, hooks.StopOnSignalHook)),
        (mm.HOOKS, (checkpoints.WholeCheckpointHook,)),
        (mm.OPTIM_WRAPPERS, (optim.Bf16OptimWrapper,)),
        (mm.OPTIM_WRAPPER_CONSTRUCTORS, (optim.NLCLOptimWrapperConstructor,)),
    ):
        for cls in classes:
            if registry.module_dict.get(cls.__name__) is not cls:
                registry.register_module(module=cls)


register_in_mmengine()
