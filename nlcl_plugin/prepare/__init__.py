"""Rain datasets of any layout become one standard tree: `rainy/ clean/ val_rainy/ val_clean/` and a manifest.

`collect` lists the images, `inspect` reads them, `make_plan` decides where each goes, `execute` makes the files.
"""

from nlcl_plugin.prepare.execute import execute
from nlcl_plugin.prepare.inspection import inspect
from nlcl_plugin.prepare.layouts import LAYOUTS, collect
from nlcl_plugin.prepare.model import Options
from nlcl_plugin.prepare.plan import make_plan

__all__ = ["LAYOUTS", "Options", "collect", "execute", "inspect", "make_plan"]
