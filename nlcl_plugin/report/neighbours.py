"""The non-local neighbours that layer contrast would compare, drawn on both layers of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from nlcl_plugin.config.train_options import LayerPatches
from nlcl_plugin.errors import InputError
from nlcl_plugin.ops import nonlocal_neighbours, random_centres
from nlcl_plugin.report.experiment import block
from nlcl_plugin.report.layers import Example
from nlcl_plugin.report.pictures import Picture, brightened, exact_picture

QUERIES = 3
_MARGIN = 4  # pixels around a search window


@dataclass(frozen=True)
class Box:
    """A square on a picture: its upper left pixel, and in words what it is."""

    left: int
    top: int
    side: int
    text: str


@dataclass(frozen=True)
class Neighbourhood:
    """A query patch, where its neighbours are looked for, and those that were found.

    Attributes:
        layer: `image layer B` or `rain layer R`.
        picture: The surroundings, pixel by pixel.
        window: Of the search: where a neighbour may lie.
        query: The query patch.
        found: Its neighbours, nearest first; it is one itself, unless more patches than asked for equal it.
    """

    layer: str
    picture: Picture
    window: Box
    query: Box
    found: list[Box]


@dataclass(frozen=True)
class Queries:
    """Queries of an image.

    Attributes:
        patches: What is searched for, and how many.
        asked: Whether the options ask for layer contrast; if not, `patches` has its defaults.
        size: Height and width of the image.
        places: The query patches on it.
        found: For each the neighbours in B and in R.
    """

    patches: LayerPatches
    asked: bool
    size: tuple[int, int]
    places: list[Box]
    found: list[list[Neighbourhood]]


def layer_patches(options: dict[str, Any]) -> tuple[LayerPatches, bool]:
    """The patches of layer contrast that the options ask for, or the defaults, and whether they do.

    Raises:
        InputError: If they are wrong.
    """
    blocks = [block(options, "train", "layer_opt"), block(options, "train", "nlcl_opt", "layer_opt")]
    asked = any(blocks) or bool(block(options, "train", "nlcl_opt"))
    sampling = next((block(found, "sampling") for found in blocks if found), {})
    try:
        return LayerPatches(**{key: sampling[key] for key in LayerPatches.model_fields if key in sampling}), asked
    except ValidationError as error:
        raise InputError(
            f"options.yml: the sampling of layer contrast is wrong ({error.error_count()} faults)"
        ) from error


def find_queries(example: Example, options: dict[str, Any]) -> Queries | None:
    """Search the neighbours of a few random query patches in the layers of stage 1, as training does.

    Args:
        example: The image.
        options: Options of the training.

    Returns:
        The queries; the same ones for the same image. None if the image is too small for them.
    """
    layers = example.layers[0]
    patches, asked = layer_patches(options)
    side = patches.patch_size
    size = (example.rainy.shape[-2], example.rainy.shape[-1])
    # At the very border the window has fewer candidates than asked for; away from it all of them, if there is room.
    inset = min(patches.search_size // 2, (min(size) - side) // 2)
    if inset < 0:
        return None
    inner = (size[0] - 2 * inset, size[1] - 2 * inset)
    generator = torch.Generator().manual_seed(0)
    centres = random_centres(1, QUERIES, inner, side, generator=generator) + inset
    found: list[list[Neighbourhood]] = [[] for _ in range(QUERIES)]
    for name, layer, k in (
        ("image layer B", layers.image, patches.num_image_patches),
        ("rain layer R", layers.rain, patches.num_rain_patches),
    ):
        try:
            near, distances = nonlocal_neighbours(
                layer[None].float(), centres, patch_size=side, search_size=patches.search_size, k=k
            )
        except ValueError:  # fewer candidates than neighbours
            return None
        rms = (distances / (layer.shape[0] * side**2)).sqrt()
        for query in range(QUERIES):
            found[query].append(_neighbourhood(name, layer, centres[0, query], near[0, query], rms[0, query], patches))
    places = [_box(centre.tolist(), side, f"query {n}") for n, centre in enumerate(centres[0], start=1)]
    return Queries(patches, asked, size, places, found)


def _neighbourhood(
    name: str, layer: Tensor, query: Tensor, near: Tensor, rms: Tensor, patches: LayerPatches
) -> Neighbourhood:
    side, search = patches.patch_size, patches.search_size
    height, width = layer.shape[-2:]
    row, column = query.tolist()
    reach = search // 2 + side // 2 + _MARGIN
    top, left = max(0, row - reach), max(0, column - reach)
    crop = layer[:, top : min(height, row + reach), left : min(width, column + reach)]
    shown, factor = brightened(crop) if name.startswith("rain") else (crop, 1.0)
    boxes = [
        _box((centre[0] - top, centre[1] - left), side, f"{place}: differs by {difference:.4f} (root mean square)")
        for place, (centre, difference) in enumerate(zip(near.tolist(), rms.tolist(), strict=True), start=1)
    ]
    own = _box((row - top, column - left), side, "the query patch")
    window = _box((row - top, column - left), search, "centres of neighbours lie in here")
    note = f"{len(boxes)} nearest" + (f", brightness × {factor:g}" if factor > 1 else "")
    return Neighbourhood(name, exact_picture(name, shown, note), window, own, boxes)


def _box(centre: Any, side: int, text: str) -> Box:
    row, column = centre
    return Box(column - side // 2, row - side // 2, side, text)
