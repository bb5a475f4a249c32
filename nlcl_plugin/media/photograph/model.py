"""What is known of a photograph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAX_PIXELS = 200_000_000  # what the largest phone cameras take; a file that says more may be made to fill the memory


@dataclass(frozen=True)
class Photograph:
    """A photograph, the right way up, and what its file is written with again.

    Attributes:
        rgb: (H, W, 3) RGB of uint8, uint16, or float32 in [0, 1].
        alpha: (H, W) opacity of the same type, or None.
        grey: Whether the file has one channel of brightness; the three of `rgb` are then equal.
        kind: The format of the content, whatever the name says: PNG, JPEG, WebP, TIFF, BMP or PPM.
        icc: The ICC colour profile of `rgb`, or None.
        exif: The EXIF block (a TIFF header and its tags), with orientation 1 and no thumbnail, or None.
        xmp: The XMP packet, with orientation 1, or None.
        settings: What its encoder needs to write the file as it was; the keys differ between formats.
        notes: What could not be kept, a phrase each, for the user to see.
    """

    rgb: np.ndarray
    alpha: np.ndarray | None
    grey: bool
    kind: str
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def depth(self) -> int:
        """The bits of a value: 8, 16, or 32 for floats."""
        return self.rgb.dtype.itemsize * 8
