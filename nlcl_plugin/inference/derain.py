"""Derain images that a program holds: arrays and tensors in, the same kind out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from nlcl_plugin.data.image_io import to_tensor
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derainer import Derainer, ShapeError, load_derainer
from nlcl_plugin.media.photograph.writing import pixels_like
from nlcl_plugin.networks.weights import PACKAGED, find_weights

DEFAULT_WEIGHTS = PACKAGED["real"]  # the file, as its name may be that of a folder at hand

_TRIAL = (1, 3, 64, 64)  # a size that all but few networks take

_Images = TypeVar("_Images", np.ndarray, Tensor, list, tuple)


class ImageDerainer:
    """Derains images in memory with one network.

    Args:
        weights: A network file or the folder of a training (see `load_derainer`); by default `real`, the weights for
            photographs of real rain that come with the package (docs/model_card.md).
        device: `auto` (a GPU if there is one), `cpu`, `cuda`, `cuda:1` …
        amp: Run in bfloat16 where that is safe: less time where the processor has it, off by a few grey levels.
        **load_options: `label`, `order`, `take_newest`, `longest_side`, `strength`, `adaptive` and `keep_colours` of
            `load_derainer`.

    Raises:
        InputError: If the weights can't be used, the network does not keep the shape, or the device is not there.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        amp: bool = False,
        **load_options: Any,
    ) -> None:
        self.derainer: Derainer = load_derainer(DEFAULT_WEIGHTS if weights is None else weights, **load_options)
        self.device = _find_device(device)
        self.derainer.net.to(self.device)
        self.amp = amp
        try:  # now, since it would fail on every image
            self.derainer(torch.zeros(_TRIAL, device=self.device))
        except ShapeError:
            raise
        except InputError:
            pass  # it may need another size

    def tensor(self, rainy: Tensor) -> Tensor:
        """Derain a batch (B, 3, H, W), RGB in [0, 1], on any device; the image layer is clipped to [0, 1].

        Raises:
            InputError: If the network fails on this size, or its result is not finite.
        """
        return self._run(self.derainer, rainy).clamp(0, 1)

    def rain(self, rainy: Tensor) -> Tensor:
        """The rain layer R (B, 1 or 3, H, W) of a batch in the same way, not clipped."""
        return self._run(self.derainer.rain, rainy)

    def _run(self, network: Callable[[Tensor], Tensor], rainy: Tensor) -> Tensor:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.amp):
            layer = network(rainy.to(self.device, torch.float32))
        if not torch.isfinite(layer).all():
            raise InputError(f"{self.derainer.source}: makes values that are not finite; give other weights")
        return layer.to(rainy.device, rainy.dtype)

    def array(self, rainy: np.ndarray) -> np.ndarray:
        """Derain an (H, W, 3) RGB array of uint8, uint16, or floats in [0, 1]; the result has its type."""
        return _as_array(self.tensor(to_tensor(rainy)[None])[0], rainy)

    def arrays(self, rainy: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Derain arrays of one shape and type at once, as suits a GPU."""
        batch = self.tensor(torch.stack([to_tensor(image) for image in rainy]))
        return [_as_array(image, rainy[0]) for image in batch]


def derain(
    images: _Images,
    weights: str | os.PathLike[str] | None = None,
    *,
    device: str = "auto",
    amp: bool = False,
    strength: float | None = None,
    adaptive: bool | None = None,
    keep_colours: bool | None = None,
    longest_side: int | None = None,
) -> _Images:
    """Remove the rain from images.

    Args:
        images: An array (H, W, 3) of uint8, uint16 or floats in [0, 1]; a tensor (3, H, W) or (B, 3, H, W) of floats
            in [0, 1]; or a list or tuple of such. RGB. For files see `basicsr derain`.
        weights: A network file, or the folder of a training such as `experiments/nlcl_small`; by default
            `real`, the weights for photographs of real rain that come with the package. Loaded once, until they change.
        device: `auto`, `cpu`, `cuda` …
        amp: Run in bfloat16.
        strength: Factor in (0, 10] on the rain that is subtracted, down to what surrounds it: more takes more rain, and
            more structure. By default what the weights say, else 1.
        adaptive: Take more, the more of an image has rain (see `nlcl_plugin.inference.adaptive`). By default what the
            weights say, else not.
        keep_colours: Leave the colours and the brightness of regions as they are, with the veil that rain lays over
            them. By default what the weights say, else not.
        longest_side: Find the rain of larger images in a copy with this longest side, in pixels; 0 for any size. By
            default what the weights say, else 0.

    Returns:
        The derained images, of the type, shape and range of the input.

    Raises:
        InputError: If the weights or the device can't be used, or an image is of another kind.

    Example:
        >>> import numpy as np
        >>> derain(np.zeros((9, 16, 3), np.uint8)).shape
        (9, 16, 3)
    """
    settings = {"strength": strength, "adaptive": adaptive, "keep_colours": keep_colours, "longest_side": longest_side}
    return _derained(images, _network(weights, device=device, amp=amp, **settings))


def _network(weights: str | os.PathLike[str] | None, **options: Any) -> ImageDerainer:
    path = find_weights(DEFAULT_WEIGHTS if weights is None else weights)
    files = [path, *path.glob("models/*")]
    changed = max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
    return _loaded(path, changed, **options)


@functools.lru_cache(maxsize=2)
def _loaded(path: Path, _changed: int, **options: Any) -> ImageDerainer:
    return ImageDerainer(path, **options)


def _derained(images: Any, network: ImageDerainer) -> Any:
    if isinstance(images, list | tuple):
        return type(images)(_derained(image, network) for image in images)
    if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[2] == 3 and images.size:
        kind, size = images.dtype.kind, images.dtype.itemsize
        if kind != "f" and (kind != "u" or size > 2):
            raise InputError(f"expected an array of uint8, uint16 or floats in [0, 1], but received {images.dtype}")
        return network.array(_in_range(images) if kind == "f" else images)
    if isinstance(images, Tensor) and images.dim() in (3, 4) and images.shape[-3] == 3 and images.numel():
        if not images.is_floating_point():
            raise InputError(f"expected a tensor of floats in [0, 1], but received {images.dtype}")
        batch = images if images.dim() == 4 else images[None]
        result = torch.cat([network.tensor(image[None]) for image in _in_range(batch)])
        return result if images.dim() == 4 else result[0]
    received = f"the shape {tuple(images.shape)}" if hasattr(images, "shape") else f"{type(images).__name__}"
    raise InputError(
        f"expected an array (H, W, 3), a tensor (3, H, W) or (B, 3, H, W), or a list of them, but received {received}; "
        'of an image file give np.array(Image.open(path).convert("RGB"))'
    )


def _in_range(image: Any) -> Any:
    """Refuse floats of another range: scaled by 255 by mistake, they would come back white."""
    low, high = float(image.min()), float(image.max())
    if not (low >= -0.01 and high <= 1.01):  # NaN fails too
        raise InputError(f"expected floats in [0, 1], but received {low:g} to {high:g}; divide by 255, for example")
    return image


def _as_array(image: Tensor, like: np.ndarray) -> np.ndarray:
    """Make an array (H, W, C) of the type of another, integers rounded, of an image (C, H, W) in [0, 1]."""
    return np.ascontiguousarray(pixels_like(image.permute(1, 2, 0).cpu().numpy(), like))


def _find_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: no GPU is available here; give --device cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); expected auto, cpu or cuda") from error
    return device
