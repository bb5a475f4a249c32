"""Thin structure drawn into clean photographs (ours): what resembles rain, is not rain, and has to stay.

A network that learns from rendered rain alone takes whatever is thin and bright for rain: cables, railings, letters.
Photographs show too little of these to teach the difference, so they are drawn, on both images of a pair.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from nlcl_plugin.rain.batch_random import BatchRandom, to_device
from nlcl_plugin.rain.variation import RainVariation

_FINER = 4  # drawn at so many times the size and averaged, so that lines may be thinner than a pixel
_WIDTH = (0.4, 4.0)  # pixels, of lines
_OPACITY = (0.4, 1.0)
_MOST = 3  # kinds per image
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_COMPLEX)
_LETTERS = "ABCDEFGHIKLMNOPRSTUVWXYZabcdefghiklmnopqrstuvwxyz0123456789-/|!"

Line = Callable[[float, float, float, float, float], None]  # from x, y to x, y, of a width; all in pixels
Draw = Callable[[np.ndarray, Line, np.random.Generator], None]  # into a mask, whose pixels are `_FINER`


def draw_structure(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw thin structure into an image, one to three kinds: cables, railings, grids, twigs, leaves, letters, lights.

    Args:
        image: (H, W, 3), RGB in [0, 1].
        rng: Source of all randomness; the same state gives the same picture.

    Returns:
        The image with the structure, each kind in one colour, often grey, opaque or half transparent: float32 in
        [0, 1].
    """
    image = np.float32(image)
    kinds = (_cables, _railing, _grid, _twigs, _leaves, _letters, _lights)
    for _ in range(rng.integers(1, _MOST + 1)):
        image = _with_one(image, kinds[rng.integers(len(kinds))], rng)
    return image


def _with_one(image: np.ndarray, draw: Draw, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    mask = np.zeros((height * _FINER, width * _FINER), np.uint8)

    def line(x: float, y: float, to_x: float, to_y: float, thickness: float) -> None:
        start, end = ((round(_FINER * a), round(_FINER * b)) for a, b in ((x, y), (to_x, to_y)))
        cv2.line(mask, start, end, 255, max(round(_FINER * thickness), 1))

    draw(mask, line, rng)
    opacity = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    grey, tint = rng.random(), rng.random(3) if rng.random() < 0.3 else np.zeros(3)
    colour = np.clip((1 - grey**2 if rng.random() < 0.6 else grey**2) - 0.5 * tint, 0, 1)  # bright or dark
    opacity = opacity[..., None] * np.float32(rng.uniform(*_OPACITY))
    return image * (1 - opacity) + np.float32(colour) * opacity


def add_structure(clean: Tensor, options: RainVariation, random: BatchRandom) -> Tensor:
    """Draw structure into some images of a batch.

    Args:
        clean: Clean images (B, 3, H, W), RGB in [0, 1].
        options: A fraction `structure` of the images gets some. With 0 no number is drawn.
        random: Where it is drawn from which ones these are, and what they get.
    """
    if options.structure == 0:
        return clean
    clean = clean.clone()
    for place, seed in random.seeds(options.structure).items():
        image = clean[place].detach().float().permute(1, 2, 0).cpu().numpy()
        drawn = draw_structure(image, np.random.default_rng(seed))
        clean[place] = to_device(torch.from_numpy(drawn).permute(2, 0, 1), clean)
    return clean


def _size(mask: np.ndarray) -> tuple[float, float]:
    return mask.shape[1] / _FINER, mask.shape[0] / _FINER


def _width_of(rng: np.random.Generator) -> float:
    return float(_WIDTH[0] * (_WIDTH[1] / _WIDTH[0]) ** rng.random())


def _place(mask: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    width, height = _size(mask)
    return rng.uniform(0, width), rng.uniform(0, height)


def _cables(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """Up to five long lines of nearly one direction, as steep as rain in half of the images: cables, poles, edges."""
    direction = rng.normal(math.pi / 2, 0.1) if rng.random() < 0.5 else rng.uniform(0, math.pi)
    far = sum(_size(mask))
    for _ in range(rng.integers(1, 6)):
        (x, y), angle, width = _place(mask, rng), direction + rng.normal(0, 0.1), _width_of(rng)
        dx, dy = far * math.cos(angle), far * math.sin(angle)
        line(x - dx, y - dy, x + dx, y + dy, width)


def _railing(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """Equal bars at equal distances, between two rails."""
    width, height = _size(mask)
    step, tilt = rng.uniform(3, 25), rng.normal(0, 0.1)
    thickness = step * rng.uniform(0.15, 0.6)
    top, length = rng.uniform(-0.3, 0.7) * height, rng.uniform(0.15, 1.0) * height
    for x in np.arange(-width, 2 * width, step):
        line(x, top, x + tilt * length, top + length, thickness)
    for y in (top, top + length):
        line(0, y, width, y, thickness)


def _grid(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """Two families of lines across the image: tiles, a fence, scaffolding."""
    far, (x, y) = sum(_size(mask)), _place(mask, rng)
    first, thickness = rng.uniform(0, math.pi), _width_of(rng)
    for angle in (first, first + rng.uniform(0.8, 2.3)):
        dx, dy = math.cos(angle), math.sin(angle)
        for offset in np.arange(-far, far, rng.uniform(5, 30)):
            at_x, at_y = x - offset * dy, y + offset * dx
            line(at_x - far * dx, at_y - far * dy, at_x + far * dx, at_y + far * dy, thickness)


def _twigs(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """Short strokes that continue each other with bends and forks, or lie about."""
    ends = [(*_place(mask, rng), rng.uniform(0, 2 * math.pi))]
    for _ in range(rng.integers(5, 50)):
        if rng.random() < 0.15:
            ends.append((*_place(mask, rng), rng.uniform(0, 2 * math.pi)))
        x, y, direction = ends[rng.integers(len(ends))]
        direction, length = direction + rng.normal(0, 0.5), rng.uniform(3, 20)
        to_x, to_y = x + length * math.cos(direction), y + length * math.sin(direction)
        line(x, y, to_x, to_y, _WIDTH[0] * 4 ** rng.random())
        ends.append((to_x, to_y, direction))


def _leaves(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """Foliage through whose gaps the ground shows, as bright as rain where the leaves are dark."""
    width, height = _size(mask)
    direction, length, breadth = rng.uniform(0, 180), rng.uniform(3, 14), rng.uniform(1, 4)
    for _ in range(round(rng.uniform(0.2, 1.5) * width * height / (4 * length * breadth))):
        x, y = _place(mask, rng)
        axes = (round(_FINER * length * rng.uniform(0.5, 1.2)), round(_FINER * breadth * rng.uniform(0.5, 1.2)))
        cv2.ellipse(mask, (round(_FINER * x), round(_FINER * y)), axes, direction + rng.normal(0, 40), 0, 360, 255, -1)


def _letters(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """Up to four words."""
    for _ in range(rng.integers(1, 5)):
        word = "".join(rng.choice(list(_LETTERS), rng.integers(1, 9)))
        font, height, stroke = int(rng.choice(_FONTS)), rng.uniform(5, 35), rng.uniform(0.08, 0.2)
        scale = cv2.getFontScaleFromHeight(font, round(height * _FINER))
        x, y = _place(mask, rng)
        start = round((x - height) * _FINER), round((y + 0.5 * height) * _FINER)
        cv2.putText(mask, word, start, font, scale, 255, max(round(stroke * height * _FINER), 1))


def _lights(mask: np.ndarray, line: Line, rng: np.random.Generator) -> None:
    """A few round lights, fewer than drops of rain are."""
    for _ in range(rng.integers(1, 7)):
        x, y = _place(mask, rng)
        cv2.circle(mask, (round(_FINER * x), round(_FINER * y)), round(_FINER * rng.uniform(0.7, 4)), 255, -1)
