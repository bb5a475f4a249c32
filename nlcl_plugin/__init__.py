"""nlcl_plugin: learn to remove rain from photographs without pairs, inside BasicSR.

After `import nlcl_plugin`, BasicSR 1.4.2 is repaired and has all our parts in its registries as soon as it is imported.
`nlcl_plugin.ops`, `nlcl_plugin.losses` and `nlcl_plugin.archs` need torch alone.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nlcl_plugin.import_hook import extend_basicsr_on_import
from nlcl_plugin.version import __version__ as __version__

if TYPE_CHECKING:
    from nlcl_plugin import archs as archs
    from nlcl_plugin import data as data
    from nlcl_plugin import losses as losses
    from nlcl_plugin import ops as ops
    from nlcl_plugin.inference.derain import derain as derain
    from nlcl_plugin.training.run import train as train

__all__ = ["__version__", "archs", "data", "derain", "losses", "ops", "train"]
_PLACES = {"derain": "inference.derain", "train": "training.run"}

extend_basicsr_on_import()


def __getattr__(name: str) -> Any:
    """Import a part when it is asked for: who uses the losses alone does not wait for BasicSR."""
    if name in __all__:
        module = importlib.import_module(f"{__name__}.{_PLACES.get(name, name)}")
        return getattr(module, name) if name in _PLACES else module
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
