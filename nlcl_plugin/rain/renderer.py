"""A small rain renderer: bright grey streaks, drawn from nothing but a random generator.

It serves demonstrations and tests. It is not a model of real rain: there is no depth, no veil of mist, no lens and no
motion of the background. It has in common with real rain what unpaired learning needs: streaks of one dominant
direction per image, of varied length, brightness and density, and only ever added light.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from nlcl_plugin.losses import lay_rain

MAX_RAIN = 0.8  # the brightest value of a rendered rain layer

_MAX_ANGLE = 40.0  # degrees from the vertical, of the main angle
_MAX_LAYERS = 4
_DENSITY = (0.0006, 0.0022)  # drops per pixel of one layer
_PEAK = (0.2, 0.55)  # brightness of one layer
_STREAKS_PER_LAYER = 16  # different streaks that the drops of one layer choose from
_LENGTH = (9.0, 25.0)  # pixels, before the scale of the layer
_SCALE = (0.5, 1.6)
_BLUR = (0.4, 0.8)  # pixels, before the scale of the layer
_BRIGHTNESS = (0.3, 1.0)  # of one streak, relative to the peak of the layer
_ANGLE_JITTER = 3.0  # degrees
_LINE_SIGMA = 0.5  # pixels: an anti-aliased line, one pixel wide, before it is blurred


def render_rain(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Render one grey rain layer.

    All streaks of an image have one main angle, up to a jitter of some degrees. Each layer has its own scale, density
    and brightness, as rain at several distances would; the brightest layer wins at each pixel.

    Args:
        shape: Height and width of the layer, pixels.
        rng: Source of all randomness; the same state gives the same layer.

    Returns:
        A float32 array of this shape with values in [0, 0.8].

    Example:
        >>> rain = render_rain((64, 64), np.random.default_rng(0))
        >>> rain.shape, rain.dtype.name, bool(rain.min() == 0 and 0.2 <= rain.max() <= 0.8)
        ((64, 64), 'float32', True)
    """
    height, width = shape
    rain = np.zeros((height, width), np.float32)
    main_angle = rng.uniform(-_MAX_ANGLE, _MAX_ANGLE)
    for _ in range(rng.integers(2, _MAX_LAYERS + 1)):
        scale = rng.uniform(*_SCALE)
        count = rng.poisson(rng.uniform(*_DENSITY) * height * width)
        peak = rng.uniform(*_PEAK)
        streaks = [
            np.float32(peak * rng.uniform(*_BRIGHTNESS))
            * _streak(
                length=scale * rng.uniform(*_LENGTH),
                angle=main_angle + rng.normal(0.0, _ANGLE_JITTER),
                blur=scale * rng.uniform(*_BLUR),
            )
            for _ in range(_STREAKS_PER_LAYER)
        ]
        # Centres reach beyond the border by the longest streak, so that the border is as rainy as the middle.
        margin = max(streak.shape[0] for streak in streaks) // 2
        grown = (height + 2 * margin) * (width + 2 * margin) / max(height * width, 1)
        count = round(count * grown)
        rows = rng.integers(-margin, height + margin, count)
        columns = rng.integers(-margin, width + margin, count)
        for row, column, kind in zip(rows, columns, rng.integers(0, len(streaks), count), strict=True):
            _stamp(rain, streaks[kind], int(row), int(column))
    return np.clip(rain, 0.0, MAX_RAIN)


def blend(clean: np.ndarray, rain: np.ndarray, mode: str = "additive") -> np.ndarray:
    """Lay a rain layer on a clean image: `losses.lay_rain` for arrays.

    Args:
        clean: (H, W, C) image in [0, 1].
        rain: (H, W) rain layer in [0, 1], the same for all channels.
        mode: `additive` or `screen`.

    Returns:
        The rainy image, float32, (H, W, C), in [0, 1].
    """
    return lay_rain(_tensor(clean), _tensor(rain[..., None]), blend=mode).numpy()


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def _streak(length: float, angle: float, blur: float) -> np.ndarray:
    """One blurred line as a square array with an odd side and peak 1; the angle is in degrees from the vertical."""
    sigma = math.hypot(_LINE_SIGMA, blur)
    radius = math.ceil(length / 2 + 3 * sigma)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    along = columns * sine + rows * cosine
    across = columns * cosine - rows * sine
    beyond = np.maximum(np.abs(along) - length / 2, 0.0)
    return np.exp(-(across**2 + beyond**2) / (2 * sigma**2)).astype(np.float32)


def _stamp(canvas: np.ndarray, streak: np.ndarray, row: int, column: int) -> None:
    """Draw a streak centred at a place, inside or outside of the canvas; the brighter value stays."""
    radius = streak.shape[0] // 2
    top, left = max(row - radius, 0), max(column - radius, 0)
    place = canvas[top : max(row + radius + 1, 0), left : max(column + radius + 1, 0)]
    if place.size:
        y, x = top - (row - radius), left - (column - radius)
        np.maximum(place, streak[y : y + place.shape[0], x : x + place.shape[1]], out=place)
