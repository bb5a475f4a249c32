"""nlcl_plugin: learn to remove rain from photographs without pairs, inside BasicSR.

Importing the package mends what breaks BasicSR 1.4.2 today and registers all parts in its registries. Where BasicSR is
not installed, `nlcl_plugin.ops`, `nlcl_plugin.losses` and `nlcl_plugin.archs` work with torch alone.
"""

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nlcl_plugin.engine.derain import derain as derain

__version__ = "0.1.0"

if find_spec("basicsr") is not None:
    # At import, not under a main guard: spawned loader workers import the package again and need the repairs too.
    try:
        from nlcl_plugin.compat import repair_basicsr

        repair_basicsr()

        from nlcl_plugin.registry import register_in_basicsr

        register_in_basicsr()
    except KeyboardInterrupt:
        # Most of the time that the command takes to start is spent here, before its `main`.
        if os.path.splitext(os.path.basename(sys.argv[0]))[0] not in ("-m", "basicsr"):
            raise
        print("interrupted; run the same command again", file=sys.stderr)
        sys.exit(5)


def __getattr__(name: str) -> Any:
    """Import `derain` when it is asked for: those who train don't wait for what it needs."""
    if name == "derain":
        from nlcl_plugin.engine.derain import derain

        return derain
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
