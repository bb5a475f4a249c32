"""What a model does to its validation images: figures, a table and pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from os import path as osp
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger
from tqdm import tqdm

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.engine.json_log import json_text
from nlcl_plugin.engine.montage import save_montage
from nlcl_plugin.metrics.classical_filters import FILTERS, best_filter
from nlcl_plugin.metrics.quality import psnr, ssim

MAX_IMAGES = 100  # that a summary looks at, evenly spread: classical filters on thousands of photographs take hours
SHOWN = 4  # rows of the picture


def summarise(model: Any, loaders: list[Any], folder: str) -> dict[str, Any] | None:
    """Measure a model on every dataset it was just validated on and write `summary.json` and pictures.

    Args:
        model: A model with BasicSR's `feed_data`, `test` and `get_current_visuals`.
        loaders: Loaders of the datasets, with pairs or without.
        folder: Where the files go: `summary.json`, `summary.png` of the first dataset with pairs and
            `summary_NAME.png` of each other one.

    Returns:
        The figures of the first dataset with pairs (PSNR in dB and SSIM on 8-bit RGB, `mean_rain` in [0, 1]), with
        those of all under `datasets`, and under `photographs` those of datasets without pairs (NIQE, as validated;
        lower is better). None if there are neither. `baseline` is the best classical filter of them all on these very
        pairs, a choice in its favour. `clean` compares the derained clean images with themselves. `split_error` is
        the mean of |O - B - R| in [0, 1]; without pairs, of the photographs that are shown.
    """
    datasets: dict[str, dict[str, Any]] = {}
    photographs: dict[str, dict[str, Any]] = {}
    pictures = []
    for loader in loaders:
        name = loader.dataset.opt["name"]
        figures, rows, captions = _measure(model, loader)
        if figures:
            pictures.append(osp.join(folder, f"summary_{name}.png" if datasets else "summary.png"))
            datasets[name] = figures
        else:
            figures, rows, captions = _look(model, loader)
            if not figures:
                continue
            pictures.append(osp.join(folder, f"summary_{name}.png"))
            photographs[name] = figures
        save_montage(pictures[-1], rows, captions)
    if not datasets and not photographs:
        return None
    summary = {**next(iter(datasets.values()), {}), "datasets": datasets, "photographs": photographs}
    path = osp.join(folder, "summary.json")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(json_text(summary, indent=2))
    os.replace(f"{path}.tmp", path)
    shown = "\n".join(f"Picture: {picture}" for picture in pictures)
    get_root_logger().info(f"Summary\n{table(datasets, photographs)}\nFigures: {path}\n{shown}")
    return summary


def table(datasets: dict[str, dict[str, Any]], photographs: dict[str, dict[str, Any]]) -> str:
    """Format the figures of `summarise` as lines of text."""
    width = max([22, *(len(figures["baseline"]) for figures in datasets.values())])
    lines = [f"{'':{width + 2}} {'PSNR (dB)':>10} {'SSIM':>8}"] if datasets else []
    for name, figures in datasets.items():
        lines.append(f"{name} ({figures['images']} pairs)")
        labels = {
            "rainy": "rainy, as it comes",
            "baseline": figures["baseline"],
            "derained": "derained",
            "clean": "derain(clean)",
        }
        for key, label in labels.items():
            lines.append(f"  {label:{width}} {figures['psnr'][key]:10.2f} {figures['ssim'][key]:8.3f}")
    for name, figures in photographs.items():
        niqe = figures["niqe"]
        said = "no NIQE: too small, or other metrics were asked for"
        if niqe:
            said = f"NIQE {niqe['rainy']:.2f} as they come, {niqe['derained']:.2f} derained (lower is better)"
        lines.append(f"{name} ({figures['images']} without pairs): {said}")
    return "\n".join(lines)


def _row(visuals: dict[str, torch.Tensor], data: dict[str, Any]) -> dict[str, np.ndarray]:
    """Pictures by title, (H, W, 3) uint8 RGB."""
    row = {key: to_uint8(visuals[source][0]) for key, source in (("rainy", "lq"), ("derained", "result"))}
    row["rain layer"] = to_uint8(_rain(visuals)[0].expand(3, -1, -1))
    if "gt" in data:
        row["ground truth"] = to_uint8(data["gt"][0])
    return row


def _rain(visuals: dict[str, torch.Tensor]) -> torch.Tensor:
    return visuals.get("rain", visuals["lq"] - visuals["result"])


def _split_error(visuals: dict[str, torch.Tensor]) -> float:
    """Mean of |O - B - R|: zero where one network makes both layers."""
    return float((visuals["lq"] - visuals["result"] - _rain(visuals)).abs().mean())


def _spread(dataset: Any, most: int) -> np.ndarray:
    """Indices of at most so many images, evenly spread."""
    return np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), most)).astype(int))


def _look(model: Any, loader: Any) -> tuple[dict[str, Any], list[dict[str, np.ndarray]], list[dict[str, str]]]:
    """Figures of photographs whose clean twins nobody has."""
    dataset = loader.dataset
    metrics = getattr(model, "last_metrics", {}).get(dataset.opt["name"])
    if metrics is None or "gt" in dataset[0]:
        return {}, [], []
    # The validation derained them all; here only those that are shown are derained again.
    indices = _spread(dataset, SHOWN)
    shown = [_derain(model, torch.utils.data.default_collate([dataset[int(index)]])) for index in indices]
    measured = {"niqe", "niqe_rainy"} <= metrics.keys()
    niqe = {"rainy": metrics["niqe_rainy"], "derained": metrics["niqe"]} if measured else None
    figures = {"niqe": niqe, "split_error": float(np.mean([*map(_split_error, shown)])), "images": len(dataset)}
    return figures, [_row(visuals, {}) for visuals in shown], [{} for _ in shown]


def _measure(model: Any, loader: Any) -> tuple[dict[str, Any], list[dict[str, np.ndarray]], list[dict[str, str]]]:
    dataset = loader.dataset
    chosen = _spread(dataset, MAX_IMAGES)
    first = dataset[int(chosen[0])]
    if "gt" not in first or first["gt"].shape != first["lq"].shape or first["gt"].shape[0] != 3:
        return {}, [], []

    name, count = dataset.opt["name"], len(chosen)
    get_root_logger().info(f"Summary of {name}: classical filters and derain(clean) on {count} images, for comparison")

    def pairs() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # disable=None hides the bar where there is no terminal
        for index in tqdm(chosen, desc=f"filters on {dataset.opt['name']}", unit="image", disable=None, leave=False):
            data = dataset[int(index)]
            yield data["lq"].permute(1, 2, 0).numpy(), data["gt"].permute(1, 2, 0).numpy()

    baseline, _ = best_filter(pairs())
    scores: dict[str, list[tuple[float, float]]] = {key: [] for key in ("rainy", "baseline", "derained", "clean")}
    rows: list[dict[str, np.ndarray]] = []
    captions: list[dict[str, str]] = []
    mean_rain: list[float] = []
    errors: list[float] = []
    for index in tqdm(chosen, desc=f"summary of {dataset.opt['name']}", unit="image", disable=None, leave=False):
        data = torch.utils.data.default_collate([dataset[int(index)]])
        visuals = _derain(model, data)
        row = _row(visuals, data)
        errors.append(_split_error(visuals))
        images = {
            "rainy": row["rainy"],
            "baseline": to_uint8(FILTERS[baseline](data["lq"][0].permute(1, 2, 0).numpy())),
            "derained": row["derained"],
            "clean": to_uint8(_derain(model, {**data, "lq": data["gt"]})["result"][0]),
        }
        for key, image in images.items():
            scores[key].append((psnr(image, row["ground truth"]), ssim(image, row["ground truth"])))
        mean_rain.append(float(np.mean(row["rainy"].astype(float) - row["derained"]) / 255))
        if len(rows) < SHOWN:
            rows.append(row)
            captions.append({key: f"{scores[key][-1][0]:.1f} dB" for key in ("rainy", "derained")})
    figures = {
        "psnr": {key: float(np.mean([decibels for decibels, _ in values])) for key, values in scores.items()},
        "ssim": {key: float(np.mean([similarity for _, similarity in values])) for key, values in scores.items()},
        "mean_rain": float(np.mean(mean_rain)),
        "split_error": float(np.mean(errors)),
        "baseline": baseline,
        "images": len(chosen),
    }
    return figures, rows, captions


def _derain(model: Any, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.feed_data(data)
    model.test()
    return model.get_current_visuals()
