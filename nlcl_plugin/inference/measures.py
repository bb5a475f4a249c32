"""Figures of derained photographs, as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import numpy as np

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.data.image_io import IMAGE_SUFFIXES, to_float, to_uint8
from nlcl_plugin.errors import InputError, escape
from nlcl_plugin.media.photograph import read_photograph
from nlcl_plugin.metrics.niqe import niqe
from nlcl_plugin.metrics.quality import psnr, ssim
from nlcl_plugin.metrics.streaks import precision_recall, streaks_left


def measure(
    rainy: np.ndarray, derained: np.ndarray, blind: bool, truth_file: Path | None, max_pixels: int
) -> dict[str, float]:
    """Measure one photograph O and its derained B (H, W, 3), RGB, on 8 bits.

    Args:
        rainy: O.
        derained: B, of the same shape and type.
        blind: Whether to measure NIQE (lower is better), before and after, and the streaks that are left.
        truth_file: Its ground truth, if there is one; see `find_truth`.
        max_pixels: The most pixels that the ground truth may have.

    Returns:
        `mean_rain` in [0, 1]; `niqe_rainy`, `niqe` and `streaks_left` where the image has them (`metrics.niqe`,
        `metrics.streaks`); and `psnr_rainy`, `psnr` (dB), `ssim_rainy`, `ssim`, `streak_precision` and `streak_recall`.
        Nothing if neither is asked for.

    Raises:
        InputError: If the ground truth is unreadable or of another size.
    """
    if not blind and truth_file is None:
        return {}
    found = {"mean_rain": float(np.mean(to_float(rainy) - to_float(derained)))}
    pictures = {"_rainy": to_uint8(to_float(rainy)), "": to_uint8(to_float(derained))}
    if blind:
        found |= {f"niqe{suffix}": niqe(picture) for suffix, picture in pictures.items()}
        found["streaks_left"] = streaks_left(*map(to_float, pictures.values()))
    if truth_file is not None:
        truth = _ground_truth(truth_file, rainy.shape, max_pixels)
        for suffix, picture in pictures.items():
            found |= {f"psnr{suffix}": psnr(picture, truth), f"ssim{suffix}": ssim(picture, truth)}
        rainy, derained, truth = (to_float(picture) for picture in (*pictures.values(), truth))
        found["streak_precision"], found["streak_recall"] = precision_recall(rainy, derained, truth)
    return {key: value for key, value in found.items() if math.isfinite(value)}


def find_truth(folder: Path, name: Path) -> Path | None:
    """Return the file of a folder that has a photograph's name, or else its name with another ending; None without."""
    path = folder / name
    if path.is_file():
        return path
    images = (one for one in sorted(path.parent.glob("*")) if one.suffix.lower() in (*IMAGE_SUFFIXES, ".pgm"))
    return next((one for one in images if one.stem == name.stem), None)


def _ground_truth(path: Path, shape: tuple[int, ...], max_pixels: int) -> np.ndarray:
    truth = read_photograph(path, max_pixels=max_pixels).rgb
    if truth.shape != shape:
        sizes = f"{truth.shape[1]}×{truth.shape[0]}, the image {shape[1]}×{shape[0]}"
        raise InputError(f"the ground truth {path} is {sizes}; pairs must have one size")
    return to_uint8(to_float(truth))


def write_measures(output: Path, measures: dict[str, dict[str, float]]) -> None:
    """Write figures by file name to `metrics.json`, and to `metrics.csv` with control characters in names escaped."""
    names = sorted({key for row in measures.values() for key in row})
    means = {key: float(np.mean([row[key] for row in measures.values() if key in row])) for key in names}
    write_whole(output / "metrics.json", json.dumps({"mean": means, "images": measures}, indent=2).encode())
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["file", *names])
    writer.writeheader()
    writer.writerows({"file": escape(name), **row} for name, row in measures.items())
    write_whole(output / "metrics.csv", text.getvalue().encode())
