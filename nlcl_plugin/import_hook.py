"""BasicSR is repaired and gets our parts when it is imported: who uses the losses alone does not wait for it."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def extend_basicsr_on_import() -> None:
    """Apply our repairs and registrations to BasicSR: now if it is imported already, else as soon as it is.

    Loader workers that are spawned import their dataset's package again, which comes by here too.
    """
    if sys.modules.get("basicsr") is not None:  # None forbids its import
        _extend()
    elif not any(isinstance(finder, _BasicSRFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BasicSRFinder())


class _BasicSRFinder(MetaPathFinder):
    """Finds `basicsr` where it would be found anyway; its code then runs between our two steps."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "basicsr":
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            from nlcl_plugin.compat import prepare_import

            prepare_import()
            execute(module)
            _extend()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _extend() -> None:
    from nlcl_plugin.compat import repair_basicsr
    from nlcl_plugin.registry import register_in_basicsr
    from nlcl_plugin.training.basicsr_features import extend_basicsr

    repair_basicsr()
    extend_basicsr()
    register_in_basicsr()
