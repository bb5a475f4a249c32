"""Rain as photographs show it (ours): from drops to long streaks, at several distances, sparse or dense.

Each range covers what was seen in photographs of real rain; docs/real_rain.md gives the reason for each and shows
examples. Streaks are drawn by convolution: bright points, drawn at random, each of which becomes a streak. So the cost
does not grow with the number of streaks, and dense rain costs what sparse rain does.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.signal import fftconvolve

MAX_LAYERS = 3  # distances, one layer each
KINDS = 4  # different streaks per layer
LENGTH = (3.0, 90.0)  # pixels between the points of half brightness: short exposure or far away, to long or near
WIDTH = (0.35, 4.0)  # standard deviation across, pixels: sharp and far away, to near and out of focus
COVER = (0.003, 0.5)  # fraction of the pixels that streaks of one layer would cover if none overlapped
PEAK = (0.04, 0.6)  # mean brightness of the streaks of one layer, at their middles
SHAPE = (0.8, 4.0)  # of the gamma law of that brightness: a few bright streaks among faint ones, to nearly equal ones
TAPER = (1.0, 6.0)  # exponent: ends that fade slowly, to ends that are cut off
ANGLE_SPREAD = 16.0  # degrees, standard deviation of the direction over images: most rain falls steeply
STEEP = 0.85  # fraction of images with such a direction; the others have any within ±80 degrees
ANGLE_JITTER = 2.0  # degrees, standard deviation within an image
CURVATURE = 0.001  # standard deviation of the sagitta over the length and the length: lenses and gusts


def render_photographic_rain(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Render one grey rain layer with the variety of photographs of real rain.

    All streaks of an image have one direction, up to a jitter. Each of one to three layers has its own length, width,
    density and brightness; longer streaks are wider on average, as near ones are. Lengths, densities and brightnesses
    are drawn evenly on a logarithmic scale. The light of all streaks adds up.

    Args:
        shape: Height and width of the layer, pixels.
        rng: Source of all randomness; the same state gives the same layer.

    Returns:
        A float32 array of this shape with values in [0, 1].

    Example:
        >>> rain = render_photographic_rain((64, 64), np.random.default_rng(0))
        >>> rain.shape, rain.dtype.name, bool(rain.min() >= 0 and rain.max() <= 1)
        ((64, 64), 'float32', True)
    """
    steep = np.clip(rng.normal(0.0, ANGLE_SPREAD), -50.0, 50.0)
    angle = float(steep if rng.random() < STEEP else rng.uniform(-80.0, 80.0))
    rain = np.zeros(shape, np.float32)
    for _ in range(rng.integers(1, MAX_LAYERS + 1)):
        rain += _layer(shape, angle, rng)
    return np.clip(rain, 0.0, 1.0)


def _layer(shape: tuple[int, int], angle: float, rng: np.random.Generator) -> np.ndarray:
    depth = rng.random()
    length = _between(LENGTH, depth)
    width = _between(WIDTH, 0.5 * depth + 0.5 * rng.random())
    taper, curvature = rng.uniform(*TAPER), rng.normal(0.0, CURVATURE)
    kernels = [
        streak(
            length * rng.uniform(0.7, 1.3),
            angle + rng.normal(0.0, ANGLE_JITTER),
            width * rng.uniform(0.85, 1.2),
            taper=taper,
            curvature=curvature,
        )
        for _ in range(KINDS)
    ]
    radius = max(len(kernel) for kernel in kernels) // 2
    streaks = np.stack([np.pad(kernel, radius - len(kernel) // 2) for kernel in kernels])
    # The points reach beyond the border by the longest streak, so that the border is as rainy as the middle.
    height, columns = (side + streaks.shape[-1] - 1 for side in shape)
    covered = 2.5 * width * length  # pixels of one streak: sqrt(2 pi) standard deviations wide
    count = rng.poisson(_between(COVER, rng.random()) / covered * height * columns)
    peak, gamma = _between(PEAK, rng.random()), rng.uniform(*SHAPE)
    points = np.zeros((KINDS, height, columns), np.float32)
    places = (rng.integers(0, size, count) for size in points.shape)
    np.add.at(points, tuple(places), np.float32(peak / gamma) * rng.gamma(gamma, size=count).astype(np.float32))
    return fftconvolve(points, streaks, mode="valid", axes=(1, 2)).sum(axis=0).clip(0.0)


def _between(limits: tuple[float, float], place: float) -> float:
    """The value at a place in [0, 1] between two limits, on a logarithmic scale."""
    return limits[0] * (limits[1] / limits[0]) ** place


def streak(length: float, angle: float, width: float, *, taper: float, curvature: float) -> np.ndarray:
    """One streak.

    Args:
        length: Pixels between the two points of half brightness.
        angle: Degrees from the vertical.
        width: Standard deviation across, pixels.
        taper: Exponent of the fading: the brightness along is 2^-(2 |t| / length)^taper at t pixels from the middle.
        curvature: Sideways bend of the ends, per pixel of length, over the length.

    Returns:
        A float32 square with an odd side and its brightest value, 1, in the middle.
    """
    # Where the fading leaves less than 2 % of the brightness; slow fading is cut there.
    reach = 0.5 * length * min(math.log2(50.0) ** (1 / taper), 2.0)
    radius = math.ceil(reach + 3 * width)
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float32)
    sine, cosine = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    along = columns * sine + rows * cosine
    relative = np.abs(along) / (length / 2)
    across = columns * cosine - rows * sine - curvature * length * relative**2
    return (0.5 ** (relative**taper) * np.exp(-(across**2) / (2 * width**2))).astype(np.float32)
