"""Rain datasets of any layout become one standard tree: `rainy/ clean/ val_rainy/ val_clean/` and a manifest.

`collect` lists, `inspect` reads, `make_plan` decides, `execute` makes the files.
"""

from nlcl_plugin.data.prepare.execute import execute
from nlcl_plugin.data.prepare.inspection import inspect
from nlcl_plugin.data.prepare.layouts import LAYOUTS, Choices, collect
from nlcl_plugin.data.prepare.model import Collection, Drop, Facts, Item, Plan, Report, Settings, Shot, Source
from nlcl_plugin.data.prepare.plan import make_plan

__all__ = [
    "LAYOUTS",
    "Choices",
    "Collection",
    "Drop",
    "Facts",
    "Item",
    "Plan",
    "Report",
    "Settings",
    "Shot",
    "Source",
    "collect",
    "execute",
    "inspect",
    "make_plan",
]
