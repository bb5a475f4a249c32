"""The non-local neighbours that layer contrast compares, as squares on both layers of an image."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nlcl_plugin.config.schema import check_schema
from nlcl_plugin.config.train_options import LayerPatches
from nlcl_plugin.ops import nonlocal_neighbours, random_centres
from nlcl_plugin.pictures import EmbeddedPicture, embed, embed_rain
from nlcl_plugin.report.experiment import block
from nlcl_plugin.report.layers import Example

QUERIES = 3
_MARGIN = 4  # pixels around a search window


class Box(NamedTuple):
    """A square on a picture: its upper left pixel, its side, and in words what it is."""

    left: int
    top: int
    side: int
    text: str


class Neighbourhood(NamedTuple):
    """A query patch in one layer: its surroundings, the search window, the patch, and its neighbours, nearest first."""

    picture: EmbeddedPicture
    window: Box
    query: Box
    found: list[Box]


class Queries(NamedTuple):
    """Query patches of an image."""

    patches: LayerPatches  # sizes and numbers
    picture: EmbeddedPicture
    size: tuple[int, ...]  # height and width of the image
    places: list[Box]
    found: list[list[Neighbourhood]]  # for each query its neighbours in B and in R


def find_queries(example: Example, options: dict[str, Any], picture: EmbeddedPicture) -> Queries | None:
    """Search the neighbours of a few random query patches in the layers of stage 1, as training does.

    The queries are the same for the same image. None without layer contrast, or if the image is too small for them.
    """
    blocks = [block(options, "train", "layer_opt"), block(options, "train", "nlcl_opt", "layer_opt")]
    if not any(blocks) and not block(options, "train", "nlcl_opt"):  # which has it by default
        return None
    sampling = next((block(found, "sampling") for found in blocks if found), {})
    chosen = {key: sampling[key] for key in LayerPatches.model_fields if key in sampling}
    check_schema(LayerPatches, chosen, "the sampling of layer contrast")
    patches = LayerPatches(**chosen)
    size, side = tuple(example.rainy.shape[-2:]), patches.patch_size
    inset = patches.search_size // 2  # at the border the window has fewer candidates than asked for
    if min(size) < side + 2 * inset:
        return None
    inner = (size[0] - 2 * inset, size[1] - 2 * inset)
    centres = random_centres(1, QUERIES, inner, side, generator=torch.Generator().manual_seed(0)) + inset
    layers = example.layers[0]
    in_image = _neighbourhoods("image layer B", layers.image, centres, patches, patches.num_image_patches)
    in_rain = _neighbourhoods("rain layer R", layers.rain, centres, patches, patches.num_rain_patches)
    places = [_box(centre.tolist(), side, f"query {n}") for n, centre in enumerate(centres[0], start=1)]
    return Queries(patches, picture, size, places, [list(pair) for pair in zip(in_image, in_rain, strict=True)])


def _neighbourhoods(name: str, layer: Tensor, queries: Tensor, patches: LayerPatches, k: int) -> list[Neighbourhood]:
    side, search = patches.patch_size, patches.search_size
    near, distances = nonlocal_neighbours(layer[None], queries, patch_size=side, search_size=search, k=k)
    rms = (distances / (layer.shape[0] * side**2)).sqrt()
    reach = search // 2 + side // 2 + _MARGIN
    found = []
    for (row, column), centres, differences in zip(queries[0].tolist(), near[0].tolist(), rms[0].tolist(), strict=True):
        top, left = max(0, row - reach), max(0, column - reach)
        crop = layer[:, top : row + reach, left : column + reach]
        picture = (embed_rain if name.startswith("rain") else embed)(name, crop, note=f"{k} nearest")
        boxes = [
            _box((y - top, x - left), side, f"{rank}: differs by {difference:.4f} (root mean square)")
            for rank, ((y, x), difference) in enumerate(zip(centres, differences, strict=True), start=1)
        ]
        own = (row - top, column - left)
        window, query = _box(own, search, "centres of neighbours lie in here"), _box(own, side, "the query patch")
        found.append(Neighbourhood(picture, window, query, boxes))
    return found


def _box(centre: Any, side: int, text: str) -> Box:
    row, column = centre
    return Box(column - side // 2, row - side // 2, side, text)
