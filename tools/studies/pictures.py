"""Photographs as the arms of a study derain them, side by side."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from studies.plan import Training

from nlcl_plugin.pictures import save_montage


def show_photographs(show: list[str], results: dict[Training, Any], folder: Path, picture: Path) -> dict[str, Path]:
    """Save a sheet for each dataset and set of photographs: a row a photograph, a column an arm (first seed).

    Args:
        show: The arms, in the order of the columns.
        results: Results of the trainings; photographs must have been saved (`val.save_img: true`).
        folder: The study's folder.
        picture: The study's plot; sheets lie beside it, as STUDY_DATASET_SET.png.

    Returns:
        Sheets by title.
    """
    sheets = {}
    for dataset in dict.fromkeys(training.dataset for training in results):
        firsts: dict[str, Training] = {}
        for training, result in results.items():
            if training.dataset == dataset and training.arm in show and (result or {}).get("photographs"):
                firsts.setdefault(training.arm, training)
        sets = dict.fromkeys(name for training in firsts.values() for name in results[training]["photographs"])
        for name in sets:
            columns = {arm: _strips(folder, firsts[arm], name) for arm in show if arm in firsts}
            shared = sorted(set.intersection(*(set(strips) for strips in columns.values())))
            rows = [
                {"rainy": _third(next(iter(columns.values()))[image], 0)}
                | {arm: _third(strips[image], 1) for arm, strips in columns.items()}
                for image in shared
            ]
            if rows:
                path = picture.with_name(f"{picture.stem}_{dataset}_{name}.png")
                save_montage(str(path), rows)
                sheets[f"{name}, networks of {dataset}"] = path
    return sheets


def _strips(folder: Path, training: Training, name: str) -> dict[str, Path]:
    """Pictures rainy | derained | rain of a set, by photograph."""
    place = folder / training.place / training.output / "visualization"
    if not training.trains:
        return {path.stem: path for path in (place / f"{name}_layers").glob("*.png")}
    # of several validations, the last
    return {path.parent.name: path for path in sorted((place / name).glob("*/*.png"), key=_written)}


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _third(strip: Path, number: int) -> np.ndarray:
    image = cv2.cvtColor(cv2.imread(str(strip)), cv2.COLOR_BGR2RGB)
    width = image.shape[1] // 3
    return image[:, number * width : (number + 1) * width]
