"""The parts of this package in MMEngine: `custom_imports = dict(imports=['nlcl_plugin.mm'])` in a config.

Registers networks, losses, the model, datasets, samplers, metrics, hooks and optimizer wrappers in MMEngine's root
registries, in which those of MMagic and other projects look too. Needs neither BasicSR nor mmcv.
"""

from __future__ import annotations

try:
    import mmengine  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "mmengine":
        raise
    raise ModuleNotFoundError(
        "nlcl_plugin.mm needs MMEngine, which is not installed: pip install 'mmengine>=0.10.7'", name="mmengine"
    ) from error

from nlcl_plugin.mm.derain import NLCLDerain, UnitRangePreprocessor
from nlcl_plugin.mm.registration import register_in_mmengine
from nlcl_plugin.mm.runtime import allow_history_in_checkpoints

__all__ = ["NLCLDerain", "UnitRangePreprocessor", "register_in_mmengine"]

register_in_mmengine()
allow_history_in_checkpoints()
