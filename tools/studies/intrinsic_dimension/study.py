"""A study of the intrinsic dimension of image layers and rain layers: patch sizes, methods, numbers of neighbours.

Points are patches. They are chosen in two ways:

- `random`: different patches of an image, drawn at random. MLE looks at k of them around each.
- `neighbours`: the k patches nearest to a query in its search window, as NLCL's positives; many queries an image. MLE
  looks at k // 4 of a set around each of its patches, and the inverses are averaged over the sets.

**Degenerate points.** Patches whose standard deviation is at most `flat` are neither drawn nor queries, in every layer
alike: dry areas of a rain layer are one point many times over, and so are clipped skies. Of patches that are equal all
the same, one counts. Sets with too few distinct patches left are left out, and so are images with too few patches.

**Bias.** The same estimators measure points drawn uniformly from cubes of known dimension, as many and chosen in the
same two ways. Their embedding does not matter, as it keeps distances.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from nlcl_plugin.errors import InputError
from nlcl_plugin.ops.intrinsic_dimension import (
    FLAT,
    mle_dimension,
    nearest_distances,
    neighbour_sets,
    two_nn_dimension,
)
from nlcl_plugin.ops.patch_sets import gather_patches, patch_deviation, textured_centres

CHOICES = ("random", "neighbours")
METHODS = ("mle", "two_nn")
KNOWN = (1, 2, 4, 8, 16, 32, 64, 128)  # dimensions of the cubes


class Key(NamedTuple):
    """What an estimate was made with; `k` is None where it plays no part (TwoNN on random patches)."""

    choice: str
    method: str
    patch_size: int
    k: int | None


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Attributes:
        patch_sizes: Sides of patches in pixels.
        ks: Neighbours; see the module.
        num_patches: Random patches an image.
        num_queries: Queries an image.
        search_size: Side of the search window in pixels.
        remove_mean: Subtract from each patch its mean in each channel.
        flat: Standard deviation up to which a patch is degenerate.
        seed: Seed of all draws.
    """

    patch_sizes: Sequence[int] = (4, 8, 16)
    ks: Sequence[int] = (16, 64, 128)
    num_patches: int = 1024
    num_queries: int = 32
    search_size: int = 40
    remove_mean: bool = False
    flat: float = FLAT
    seed: int = 0

    def __post_init__(self) -> None:
        for name, values, low in (
            ("patch sizes", self.patch_sizes, 2),
            ("k", self.ks, 8),
            ("number of queries", (self.num_queries,), 1),
        ):
            if not values or min(values) < low or len(set(values)) < len(values):
                raise InputError(f"{name}: received {values}, expected different whole numbers of at least {low}")
        if self.num_patches <= max(self.ks):
            raise InputError(
                f"number of patches: received {self.num_patches}, expected more than the largest k of {max(self.ks)}"
            )
        if max(self.ks) > self.search_size**2:
            raise InputError(f"k: received {max(self.ks)}, but a search window of {self.search_size} has not so many")


@dataclass
class LayerResult:
    """What was measured on one layer.

    Attributes:
        rain: Whether it is rain.
        values: Estimates of the images; NaN where there is none.
        flat_share: For each patch size the share of patches that are flat, by image.
        repeated: For each patch size the number of drawn patches that equal another, by image.
        sets_left_out: For each key of neighbours the number of sets with too few distinct patches.
    """

    rain: bool
    values: dict[Key, list[float]] = field(default_factory=dict)
    flat_share: dict[int, list[float]] = field(default_factory=dict)
    repeated: dict[int, list[int]] = field(default_factory=dict)
    sets_left_out: dict[Key, int] = field(default_factory=dict)


class LayerPicture(NamedTuple):
    """A layer of an image: name of the layer, whether it is rain, name of the image, (C, H, W) in [-1, 1]."""

    layer: str
    rain: bool
    image: str
    values: Tensor


def study(
    pictures: Iterable[LayerPicture | InputError], settings: Settings
) -> tuple[dict[str, LayerResult], list[str]]:
    """Measure layers of images.

    Args:
        pictures: Layers of images in any order, or why one is missing.
        settings: What to measure.

    Returns:
        Results by layer, in the order of their first image; and what was skipped, a line each.

    Raises:
        InputError: If a layer has no estimate at all.
    """
    layers: dict[str, LayerResult] = {}
    skipped: list[str] = []
    for picture in pictures:
        if isinstance(picture, InputError):
            skipped.append(str(picture))
            continue
        layer = layers.setdefault(picture.layer, LayerResult(picture.rain))
        generator = torch.Generator().manual_seed(settings.seed)
        for patch_size in settings.patch_sizes:
            problem = _measure(picture.values[None], patch_size, settings, layer, generator)
            if problem:
                skipped.append(f"{picture.image} ({picture.layer}), patch size {patch_size}: {problem}")
    for name, layer in layers.items():
        if not any(math.isfinite(value) for values in layer.values.values() for value in values):
            raise InputError(
                f"{name}: no image has enough patches that are not flat; give larger images, fewer patches or a lower "
                "limit for flat patches"
            )
    if not layers:
        raise InputError(f"there is no image to measure; {skipped[0] if skipped else 'name at least one layer'}")
    return layers, skipped


def _measure(
    image: Tensor, patch_size: int, settings: Settings, layer: LayerResult, generator: torch.Generator
) -> str | None:
    """Measure one image (1, C, H, W) with one patch size; returns why not if it cannot be measured."""
    height, width = image.shape[-2:]
    # A window in a corner has a quarter of its patches.
    corner = min(height - patch_size + 1, settings.search_size // 2) * min(
        width - patch_size + 1, settings.search_size // 2
    )
    if min(height, width) < patch_size or corner < max(settings.ks):
        return f"{width}×{height} pixels are too few for {max(settings.ks)} neighbours"
    textured = patch_deviation(image, patch_size)[0] > settings.flat
    layer.flat_share.setdefault(patch_size, []).append(1 - textured.double().mean().item())
    centres = textured_centres(textured, settings.num_patches, patch_size, generator=generator)
    if len(centres) < settings.num_patches:
        return f"{len(centres)} patches are not flat, {settings.num_patches} are needed"
    points = gather_patches(image, centres[None], patch_size)
    if settings.remove_mean:
        points = without_mean(points, patch_size)
    distances = nearest_distances(points, max(settings.ks))
    layer.repeated.setdefault(patch_size, []).append(int(distances[..., 0].isnan().sum()))
    for method, k, value in _random_estimates(distances, settings):
        layer.values.setdefault(Key("random", method, patch_size, k), []).append(value)
    queries = centres[: settings.num_queries]
    for k in settings.ks:
        sets = neighbour_sets(image, queries, patch_size=patch_size, search_size=settings.search_size, k=k)
        if settings.remove_mean:
            sets = without_mean(sets, patch_size)
        for method, value, missing in _set_estimates(sets, k):
            key = Key("neighbours", method, patch_size, k)
            layer.values.setdefault(key, []).append(value)
            layer.sets_left_out[key] = layer.sets_left_out.get(key, 0) + missing
    return None


def without_mean(points: Tensor, patch_size: int) -> Tensor:
    """Subtract from patches (B, N, C * patch_size²) their mean in each channel."""
    values = points.unflatten(2, (-1, patch_size**2))
    return (values - values.mean(-1, keepdim=True)).flatten(2)


def _random_estimates(distances: Tensor, settings: Settings) -> Iterator[tuple[str, int | None, float]]:
    for k in settings.ks:
        yield "mle", k, mle_dimension(distances, k).item()
    yield "two_nn", None, two_nn_dimension(distances).item()


def _set_estimates(sets: Tensor, k: int) -> Iterator[tuple[str, float, int]]:
    """Method, estimate and number of sets left out, for sets (Q, k, D)."""
    distances = nearest_distances(sets, k // 4)
    for method in METHODS:
        values = mle_dimension(distances, k // 4) if method == "mle" else two_nn_dimension(distances)
        yield method, (1 / (1 / values).nanmean()).item(), int(values.isnan().sum())


def calibrate(settings: Settings) -> dict[Key, dict[int, float]]:
    """Measure cubes of known dimension as the layers are measured.

    Args:
        settings: As of `study`.

    Returns:
        For each key, with 0 as patch size, the estimates by dimension.
    """
    found: dict[Key, dict[int, float]] = {}
    generator = torch.Generator().manual_seed(settings.seed)
    for known in tqdm(KNOWN, desc="known dimensions", unit="set", disable=None):
        distances = nearest_distances(torch.rand(1, settings.num_patches, known, generator=generator), max(settings.ks))
        for method, k, value in _random_estimates(distances, settings):
            found.setdefault(Key("random", method, 0, k), {})[known] = value
        windows = torch.rand(settings.num_queries, settings.search_size**2, known, generator=generator)
        order = (windows - windows[:, :1]).square().sum(-1).argsort(-1)
        for k in settings.ks:
            sets = windows.take_along_dim(order[:, :k, None], 1)
            for method, value, _ in _set_estimates(sets, k):
                found.setdefault(Key("neighbours", method, 0, k), {})[known] = value
    return found


def known_alike(value: float, estimates: dict[int, float], largest: int) -> str:
    """The known dimension at which the same estimator gives the same value, as text.

    Args:
        value: An estimate.
        estimates: Of `calibrate`, for its key.
        largest: The number of values of a patch, which no dimension exceeds.

    Returns:
        A number, or `<1`, or `>` and the largest known dimension.
    """
    known = np.array(sorted(estimates))
    curve = np.maximum.accumulate([estimates[d] for d in known])
    if value < curve[0]:
        return "<1"
    if value > curve[-1]:
        return f">{min(int(known[-1]), largest)}"
    alike = float(np.exp(np.interp(np.log(value), np.log(curve), np.log(known))))
    return f"{alike:.1f}" if alike < largest else f">{largest}"
