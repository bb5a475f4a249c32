"""Read and write image files: RGB, height × width × channel, float32 in [0, 1] at every public boundary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm")

SHORTEST_LIMIT = 64  # pixels of a `longest_side`: in smaller copies nothing is left of rain

# OpenCV writes what it dislikes about a broken file to stderr; our message replaces that.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_FLOAT_TOLERANCE = 1e-4  # a float image may overshoot [0, 1] by rounding, not by being in other units

# Level 1 as BasicSR, but one filter where libpng tries five on each row: on rainy photographs 1.4 times as fast to
# write and 1.3 times to read, for 1 % more bytes. Older OpenCV cannot choose the filter.
PNG_OPTIONS = [cv2.IMWRITE_PNG_COMPRESSION, 1]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    PNG_OPTIONS += [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_DEFAULT]
    PNG_OPTIONS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """List the images below a folder, as `list_files` does.

    Raises:
        InputError: If `root` is missing, is not a folder, cannot be read or contains no image.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; expected a folder of images, correct the path")
    names = [name for name in list_files(root) if name.lower().endswith(IMAGE_SUFFIXES)]
    if not names:
        endings = ", ".join(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES)
        raise InputError(f"{root}: no image in this folder or below it; expected {endings}")
    return names


def list_files(root: str | os.PathLike[str]) -> list[str]:
    """List all files below a folder: sorted paths relative to it, with forward slashes.

    Sub-folders are searched and links are followed. A link to nothing is listed, so that it is missed when it is read.
    Hidden files and folders are left out, since they are thumbnails, checkpoints and other leftovers; pipes and devices
    too, since they could be read for ever.

    Raises:
        InputError: If a folder cannot be read.
    """
    return sorted(_walk(os.fspath(root), "", ()))


def _walk(folder: str, prefix: str, ancestors: tuple[tuple[int, int], ...]) -> list[str]:
    try:
        status = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be read ({error.strerror}); check its permissions") from error
    # A link may lead back to a folder we are in. Only that makes a loop: two links to one folder are two folders to us.
    identity = (status.st_dev, status.st_ino)
    if identity in ancestors:
        return []
    names = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_file(follow_symlinks=False) or os.path.isfile(entry) or not os.path.exists(entry):
            names.append(prefix + entry.name)
        elif os.path.isdir(entry):
            names += _walk(entry.path, f"{prefix}{entry.name}/", (*ancestors, identity))
    return names


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the content of a file.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected an image file") from error


def decode_raw(data: bytes, source: str, *, keep_grey: bool = False) -> np.ndarray:
    """Decode an image and keep its pixel type, so that a crop can be taken before anything is converted.

    Grey images become RGB, an alpha channel is dropped, and the orientation noted in EXIF is applied.

    Returns:
        An (H, W, 3) RGB array of uint8, uint16, or float32 in [0, 1].

    Raises:
        InputError: If the data is empty or is no image, or its pixel type or its values are not supported.
    """
    bgr = checked_values(decode_stored(data, source, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH), source)
    if bgr.ndim == 2:
        return bgr if keep_grey else cv2.cvtColor(bgr, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_stored(data: bytes, source: str, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    """Decode an image as OpenCV does: (H, W), or (H, W, C) with blue first, of any type.

    Raises:
        InputError: If the data is empty or is no image.
    """
    if not data:
        raise InputError(f"{source}: empty, expected an image; remove or replace it")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # for example more pixels than OpenCV accepts
        image = None
    if image is None:
        raise InputError(f"{source}: cannot be decoded as an image; it is broken or of another kind, replace it")
    return image


def checked_values(image: np.ndarray, source: str) -> np.ndarray:
    """Return an image as uint8, uint16, or float32 in [0, 1].

    Raises:
        InputError: If its type or its values are not supported; `source` is the file's name for the message.
    """
    if image.dtype in (np.float32, np.float64):
        if not np.isfinite(image).all():
            raise InputError(f"{source}: has values that are not finite; expected floats in [0, 1], replace it")
        low, high = float(image.min()), float(image.max())
        if low < -_FLOAT_TOLERANCE or high > 1 + _FLOAT_TOLERANCE:
            raise InputError(f"{source}: has float values from {low:g} to {high:g}; expected [0, 1], rescale it")
        return np.clip(image, 0, 1).astype(np.float32)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{source}: has {image.dtype} pixels; expected 8-bit, 16-bit or float ones, convert it")
    return image


def shrink(image: np.ndarray, longest_side: int) -> np.ndarray:
    """Make an image (H, W) or (H, W, C) smaller if a side of it is longer than `longest_side`; 0 for no limit."""
    height, width = image.shape[:2]
    if not 0 < longest_side < max(height, width):
        return image
    size = [max(1, round(side * longest_side / max(height, width))) for side in (width, height)]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def to_float(image: np.ndarray) -> np.ndarray:
    """Scale an image of uint8, uint16 (of any byte order), or floats in [0, 1] to float32 in [0, 1]."""
    if image.dtype.kind == "u":
        return image.astype(np.float32) / np.iinfo(image.dtype).max
    return image.astype(np.float32)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read an image file as (H, W, 3) RGB float32 in [0, 1]; see `decode_raw` for what is accepted and the errors."""
    return to_float(decode_raw(read_bytes(path), str(path)))


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """Make a (C, H, W) float32 tensor in [0, 1], with memory of its own, of an (H, W, C) array as for `to_float`."""
    # order="C" copies even what is float32 already: the array may be a view into a cached image.
    return torch.from_numpy(np.array(to_float(image.transpose(2, 0, 1)), order="C"))


def to_uint8(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Make an 8-bit image (H, W, 3): clip to [0, 1], then round.

    Raises:
        ValueError: If there are not three dimensions and three channels, or a value is not finite.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu()
        array = (image if image.dtype == torch.uint8 else image.float()).numpy()
        array = np.moveaxis(array, 0, -1) if array.ndim == 3 else array
    else:
        array = image
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"expected a (3, H, W) tensor or an (H, W, 3) array, got the shape {tuple(image.shape)}")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.isfinite(array).all():
        raise ValueError("the image has values that are not finite and cannot be made 8-bit")
    return np.ascontiguousarray(np.rint(np.clip(array.astype(np.float32), 0, 1) * 255).astype(np.uint8))


def to_uint16(image: np.ndarray) -> np.ndarray:
    """Make a float image in [0, 1] 16-bit, the nearest that a PNG can store; others are returned as they are."""
    return np.rint(image * 65535).astype(np.uint16) if image.dtype == np.float32 else image


def encode_png(image: np.ndarray) -> bytes:
    """Encode an (H, W, 3) RGB or (H, W) grey array of uint8, uint16, or float32 in [0, 1]; floats become 16-bit."""
    image = to_uint16(image)
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return encode(".png", image, PNG_OPTIONS)


def encode(ending: str, image: np.ndarray, options: Sequence[int] = ()) -> bytes:
    """Encode an image, (H, W) or (H, W, C) with blue first, as OpenCV does for a file of this ending."""
    done, encoded = cv2.imencode(ending, image, options)
    if not done:
        raise RuntimeError(f"OpenCV could not encode a {ending}")
    return encoded.tobytes()


def write_image(path: str | os.PathLike[str], rgb: torch.Tensor | np.ndarray) -> None:
    """Write an 8-bit image file; a reader sees the old file or the whole new one, never a part.

    Missing folders are made.

    Raises:
        InputError: If the ending is not one of `IMAGE_SUFFIXES`.
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise InputError(f"{path}: cannot write an image of this kind; end the name in {', '.join(IMAGE_SUFFIXES)}")
    # Encoded in memory and written by Python, since OpenCV cannot open every Unicode path on every system.
    data = encode(path.suffix.lower(), cv2.cvtColor(to_uint8(rgb), cv2.COLOR_RGB2BGR))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, data)
