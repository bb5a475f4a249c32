"""Opening files with Pillow by their content and under our own limit of pixels."""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator

from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, PpmImagePlugin, TiffImagePlugin, WebPImagePlugin

_OPENERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,  # not by way of Image.open, which takes some for animations
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}
_lock = threading.Lock()


def open_header(data: bytes, kind: str) -> Image.Image:
    """Read the header of a file; its pixels are decoded when they are asked for.

    Args:
        data: The file.
        kind: Its format.

    Raises:
        Exception: What Pillow raises for broken files.
    """
    with without_pixel_limit():
        return _OPENERS[kind](io.BytesIO(data))


@contextlib.contextmanager
def without_pixel_limit() -> Iterator[None]:
    """Do without Pillow's own limit of pixels and its warnings; both are global, so that only one thread may."""
    with _lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def load(image: Image.Image) -> None:
    """Decode the pixels.

    Raises:
        Exception: What Pillow raises for broken files.
    """
    small = Image.MAX_IMAGE_PIXELS is not None and image.width * image.height <= Image.MAX_IMAGE_PIXELS
    with contextlib.nullcontext() if small else without_pixel_limit():
        image.load()
