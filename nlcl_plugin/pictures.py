"""Pictures of rows of images with titles."""

from __future__ import annotations

import os

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL_WIDTH = 400  # pixels, of every picture in a grid
BAR = 22  # height of a line of text
GAP = 6


def save_montage(path: str, rows: list[dict[str, np.ndarray]], captions: list[dict[str, str]] | None = None) -> None:
    """Save a grid: a row an image, a column a kind of picture.

    Args:
        path: PNG file; written whole or not at all.
        rows: For each image the pictures by title (H, W, 3), uint8 RGB, the same titles in each row.
        captions: For each row a line of text by title.
    """
    if not rows:
        return
    titles = list(rows[0])
    cells = [[_fit(row[title]) for title in titles] for row in rows]
    heights = [max(cell.shape[0] for cell in row) + BAR for row in cells]
    canvas = Image.new("RGB", (len(titles) * (CELL_WIDTH + GAP) + GAP, sum(heights) + BAR + GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=14)
    for column, title in enumerate(titles):
        draw.text((GAP + column * (CELL_WIDTH + GAP), 3), title, fill="black", font=font)
    top = BAR
    for index, row in enumerate(cells):
        for column, cell in enumerate(row):
            left = GAP + column * (CELL_WIDTH + GAP)
            canvas.paste(Image.fromarray(cell), (left, top))
            text = captions[index].get(titles[column], "") if captions else ""
            draw.text((left, top + cell.shape[0] + 2), text, fill="black", font=font)
        top += heights[index]
    temporary = f"{path}.{os.getpid()}.tmp"
    canvas.save(temporary, format="PNG")
    os.replace(temporary, path)


def _fit(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    size = (CELL_WIDTH, max(1, round(height * CELL_WIDTH / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if width > CELL_WIDTH else cv2.INTER_NEAREST)
