"""nlcl_plugin: learn to remove rain from photographs without pairs, inside BasicSR.

Importing the package mends what breaks BasicSR 1.4.2 today and registers all parts in its registries. Where BasicSR is
not installed, `nlcl_plugin.ops`, `nlcl_plugin.losses` and `nlcl_plugin.archs` work with torch alone.
"""

from importlib.util import find_spec

__version__ = "0.1.0"

if find_spec("basicsr") is not None:
    # At import, not under a main guard: spawned loader workers import the package again and need the repairs too.
    from nlcl_plugin.compat import repair_basicsr

    repair_basicsr()

    from nlcl_plugin.registry import register_in_basicsr

    register_in_basicsr()
