"""Where the layers of a study of intrinsic dimension come from: folders, pairs of folders, trained networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from studies.intrinsic_dimension.study import LayerPicture
from torch import Tensor
from tqdm import tqdm

from nlcl_plugin.data.image_io import list_images, read_image, to_tensor
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derainer import load_derainer

Read = Callable[[str], list[LayerPicture]]  # the layers of a file; raises an InputError if they cannot be had


Pictures = Iterator[LayerPicture | InputError]


def folder_source(name: str, folder: str, *, rain: bool) -> Pictures:
    """Images of a folder and all below it as they are."""
    return _pictures(list_images(folder), lambda file: [LayerPicture(name, rain, file, _read(folder, file))])


def difference_source(name: str, rainy: str, clean: str) -> Pictures:
    """Rain as rainy minus clean images of equal names (except the ending).

    Raises:
        InputError: If a rainy image has no partner.
    """
    partners = {os.path.splitext(file)[0]: file for file in list_images(clean)}
    files = list_images(rainy)
    for file in files:
        if os.path.splitext(file)[0] not in partners:
            raise InputError(f"{rainy}/{file}: has no partner of this name in {clean}; give pairs of equal names")

    def difference(file: str) -> list[LayerPicture]:
        partner = partners[os.path.splitext(file)[0]]
        first, second = _read(rainy, file), _read(clean, partner)
        if first.shape != second.shape:
            raise InputError(f"{rainy}/{file}: differs in size from {clean}/{partner}; pairs must have one size")
        # In steps of 16 bits, which include those of 8: in float32 3/255 - 1/255 and 2/255 are not equal, and equal
        # patches of rain would pass for very near ones.
        return [LayerPicture(name, True, file, ((first - second) * 65535).round() / 65535)]

    return _pictures(files, difference)


def network_source(weights: list[str], folder: str, *, label: str) -> Pictures:
    """Layers "LABEL B" and "LABEL R" of rainy images by trained networks.

    Args:
        weights: A network for B and, unless R is to be O - B, one for R; files or folders as for `basicsr derain`.
        folder: Rainy images.
        label: Before the names of the layers.

    Raises:
        InputError: If there is no image, or a network cannot be loaded.
    """
    image_net = load_derainer(weights[0], order=("g", "s"))
    rain_net = load_derainer(weights[1], label="r") if len(weights) > 1 else None

    def split(file: str) -> list[LayerPicture]:
        rainy = _read(folder, file)
        image = image_net(rainy[None])[0]
        rain = rainy - image if rain_net is None else rain_net.rain(rainy[None])[0]
        layers = (("B", False, image), ("R", True, rain))
        return [LayerPicture(f"{label} {layer}".strip(), is_rain, file, values) for layer, is_rain, values in layers]

    return _pictures(list_images(folder), split)


def _pictures(files: list[str], read: Read) -> Pictures:
    for file in tqdm(files, unit="image", disable=None):
        try:
            yield from read(file)
        except InputError as error:
            yield error


def _read(folder: str, file: str) -> Tensor:
    return to_tensor(read_image(Path(folder) / file))
