"""Where the layers of a study of intrinsic dimension come from: folders, pairs of folders, trained networks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from studies.intrinsic_dimension.study import Picture
from torch import Tensor

from nlcl_plugin.config.option_files import load_yaml, newest_checkpoint, override
from nlcl_plugin.data.image_io import list_images, read_image, to_tensor
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derainer import Derainer
from nlcl_plugin.networks.about import describe
from nlcl_plugin.networks.trained_network import experiment_options, load_network

Pictures = Iterator[Picture | InputError]


class Source(NamedTuple):
    """How many pictures there are, and where they come from."""

    total: int
    pictures: Callable[[], Pictures]


def folder_source(name: str, folder: str, *, rain: bool, limit: int | None) -> Source:
    """Images of a folder as they are.

    Args:
        name: Of the layer.
        folder: Searched with all below it.
        rain: Whether they are rain layers.
        limit: Take the first ones only.

    Returns:
        The source.

    Raises:
        InputError: If there is no image.
    """
    files = list_images(folder)[:limit]

    def pictures() -> Pictures:
        for file in files:
            yield _attempt(lambda file=file: Picture(name, rain, file, _read(folder, file)))  # type: ignore[misc]

    return Source(len(files), pictures)


def difference_source(name: str, rainy: str, clean: str, *, limit: int | None) -> Source:
    """Rain as rainy less clean image, for pairs of equal names (but the ending).

    Args:
        name: Of the layer.
        rainy: Folder.
        clean: Folder.
        limit: Take the first ones only.

    Returns:
        The source.

    Raises:
        InputError: If a rainy image has no partner.
    """
    partners = {os.path.splitext(file)[0]: file for file in list_images(clean)}
    pairs = []
    for file in list_images(rainy)[:limit]:
        partner = partners.get(os.path.splitext(file)[0])
        if partner is None:
            raise InputError(f"{rainy}/{file}: has no partner of this name in {clean}; give pairs of equal names")
        pairs.append((file, partner))

    def difference(file: str, partner: str) -> Picture:
        first, second = _read(rainy, file), _read(clean, partner)
        if first.shape != second.shape:
            raise InputError(f"{rainy}/{file}: differs in size from {clean}/{partner}; pairs must have one size")
        # In steps of 16 bits, which hold those of 8: what float32 makes of 3/255 - 1/255 and of 2/255 is not equal, and
        # equal patches of rain would pass for very near ones.
        return Picture(name, True, file, ((first - second) * 65535).round() / 65535)

    def pictures() -> Pictures:
        for pair in pairs:
            yield _attempt(lambda pair=pair: difference(*pair))  # type: ignore[misc]

    return Source(len(pairs), pictures)


def network_source(split: LayerNetworks, folder: str, *, label: str, limit: int | None) -> Source:
    """Both layers of rainy images by trained networks.

    Args:
        split: The networks.
        folder: Rainy images.
        label: Put before the layers' names B and R.
        limit: Take the first ones only.

    Returns:
        The source.

    Raises:
        InputError: If there is no image.
    """
    files = list_images(folder)[:limit]
    names = tuple(f"{label} {layer}".strip() for layer in ("B", "R"))

    def pictures() -> Pictures:
        for file in files:
            try:
                layers = split(_read(folder, file)[None])
            except InputError as error:
                yield error
                continue
            for name, layer in zip(names, layers, strict=True):
                yield Picture(name, name == names[1], file, layer[0])

    return Source(2 * len(files), pictures)


class LayerNetworks:
    """Splits rainy images by the networks of an option file: B by net_g (net_s if that is all), R by net_r or as O - B.

    Args:
        options: Options with `network_*`, `decomposition` and `path.pretrain_network_*`.

    Raises:
        InputError: If a network or its weights are missing or don't fit.
    """

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.label = "g" if "network_g" in options or "network_s" not in options else "s"
        self.image = self._load(self.label)
        two_branch = options.get("decomposition") == "two_branch" and self.label == "g"
        self.rain = self._load("r") if two_branch else None

    def __call__(self, rainy: Tensor) -> tuple[Tensor, Tensor]:
        """Split.

        Args:
            rainy: O (B, 3, H, W) in [0, 1].

        Returns:
            B and R, not clipped.

        Raises:
            InputError: If a network fails on this size or does not keep it.
        """
        image = self.image(rainy)
        return image, rainy - image if self.rain is None else self.rain.rain(rainy)

    def _load(self, label: str) -> Derainer:
        key, paths = f"network_{label}", self.options.get("path") or {}
        if not isinstance(self.options.get(key), dict):
            raise InputError(f"{key} is missing: the layers are made by it; name it with its options")
        path = paths.get(f"pretrain_{key}")
        if not isinstance(path, str):
            raise InputError(
                f"path.pretrain_{key}: received {path!r}, expected a checkpoint; set it, "
                f"such as by --force_yml path:pretrain_{key}=FILE"
            )
        path = newest_checkpoint(os.path.expanduser(path), f"pretrain_{key}")
        net = load_network(self.options, label, path, paths.get(f"param_key_{label}"))
        return Derainer(net, describe(self.options[key], label), Path(path))


def networks_of(option_file: str | None, experiment: str | None, force_yml: list[str]) -> LayerNetworks:
    """Load the networks of an option file, or those of an experiment in its folder.

    Args:
        option_file: Options with weights.
        experiment: A folder with `options.yml` and `models`; used if `option_file` is None.
        force_yml: Overrides `block:key=value`.

    Returns:
        The networks.

    Raises:
        InputError: If something is missing or doesn't fit.
    """
    if option_file is not None:
        options = load_yaml(option_file)
        options["path"] = options.get("path") or {}
    else:
        assert experiment is not None
        folder, options = experiment_options(experiment)
        models = {f"pretrain_network_{label}": str(folder / "models") for label in ("g", "r", "s")}
        options["path"] = {**(options.get("path") or {}), **models}
    override(options, force_yml)
    return LayerNetworks(options)


def _read(folder: str, file: str) -> Tensor:
    return to_tensor(read_image(Path(folder) / file))


def _attempt(make: Callable[[], Picture]) -> Picture | InputError:
    try:
        return make()
    except InputError as error:
        return error
