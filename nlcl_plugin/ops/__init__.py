"""Tensor functions of the plug-in that need torch only."""

from nlcl_plugin.ops.patch_search import nonlocal_neighbours
from nlcl_plugin.ops.sampling import gather_at, random_centres

__all__ = ["gather_at", "nonlocal_neighbours", "random_centres"]
