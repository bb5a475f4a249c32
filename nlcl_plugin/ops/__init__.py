"""Tensor functions of the plug-in that need torch only."""

from nlcl_plugin.ops.intrinsic_dimension import dimension_ratio, intrinsic_dimension, layer_dimensions
from nlcl_plugin.ops.patch_search import nonlocal_neighbours
from nlcl_plugin.ops.sampling import gather_at, random_centres

__all__ = [
    "dimension_ratio",
    "gather_at",
    "intrinsic_dimension",
    "layer_dimensions",
    "nonlocal_neighbours",
    "random_centres",
]
