"""nlcl_plugin: learn to remove rain from photographs without pairs, inside BasicSR.

After `import nlcl_plugin`, BasicSR 1.4.2 is mended and has all our parts in its registries as soon as it is imported.
`nlcl_plugin.ops`, `nlcl_plugin.losses` and `nlcl_plugin.archs` need torch alone.
"""

from typing import TYPE_CHECKING, Any

from nlcl_plugin.import_hook import extend_basicsr_on_import
from nlcl_plugin.version import __version__ as __version__

if TYPE_CHECKING:
    from nlcl_plugin.inference.derain import derain as derain
    from nlcl_plugin.training.run import train as train

__all__ = ["__version__", "derain", "train"]

extend_basicsr_on_import()


def __getattr__(name: str) -> Any:
    """Import `derain` and `train` when they are asked for: who uses the losses alone does not wait for BasicSR."""
    if name == "derain":
        from nlcl_plugin.inference.derain import derain

        return derain
    if name == "train":
        from nlcl_plugin.training.run import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
