"""What a training reached on its validation pairs: figures, a table and a picture."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from os import path as osp
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import get_root_logger
from tqdm import tqdm

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.engine.montage import save_montage
from nlcl_plugin.metrics.classical_filters import FILTERS, best_filter

MAX_PAIRS = 100  # pairs a summary looks at, evenly spread: classical filters on thousands of photographs take hours
SHOWN = 4  # rows of the picture


def summarise(model: Any, loaders: list[Any], opt: dict[str, Any]) -> dict[str, Any] | None:
    """Measure the trained model on every validation dataset with pairs and write `summary.json` and `summary.png`.

    Args:
        model: A model with BasicSR's `feed_data`, `test` and `get_current_visuals`.
        loaders: Validation loaders.
        opt: Options; the files go to `path.experiments_root`.

    Returns:
        The figures of the first dataset (PSNR in dB and SSIM on 8-bit RGB, `mean_rain` in [0, 1]) with those of all
        under `datasets`; None if there are no pairs. `baseline` is the best classical filter of them all on these very
        pairs, a choice in its favour. `clean` compares the derained clean images with themselves.
    """
    root = opt["path"]["experiments_root"]
    datasets: dict[str, dict[str, Any]] = {}
    for loader in loaders:
        figures, rows, captions = _measure(model, loader)
        if not figures:
            continue
        if not datasets:
            save_montage(osp.join(root, "summary.png"), rows, captions)
        datasets[loader.dataset.opt["name"]] = figures
    if not datasets:
        return None
    summary = {**next(iter(datasets.values())), "datasets": datasets}
    path = osp.join(root, "summary.json")
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        json.dump(summary, file, indent=2)
    os.replace(f"{path}.tmp", path)
    get_root_logger().info(
        f"Held-out pairs\n{table(datasets)}\nFigures: {path}\nPicture: {osp.join(root, 'summary.png')}"
    )
    return summary


def table(datasets: dict[str, dict[str, Any]]) -> str:
    """Format the figures of `summarise` as lines of text."""
    lines = [f"{'':24} {'PSNR (dB)':>10} {'SSIM':>8}"]
    for name, figures in datasets.items():
        lines.append(f"{name} ({figures['images']} pairs)")
        labels = {
            "rainy": "rainy, as it comes",
            "baseline": f"{figures['baseline']}",
            "derained": "derained",
            "clean": "derain(clean)",
        }
        for key, label in labels.items():
            lines.append(f"  {label:22} {figures['psnr'][key]:10.2f} {figures['ssim'][key]:8.3f}")
    return "\n".join(lines)


def derained_rows(model: Any, loader: Any) -> Iterator[dict[str, np.ndarray]]:
    """Derain the images of a loader one by one; pictures by title, (H, W, 3) uint8 RGB."""
    for data in loader:
        visuals = _derain(model, data)
        row = {key: to_uint8(visuals[source][0]) for key, source in (("rainy", "lq"), ("derained", "result"))}
        rain = visuals.get("rain", visuals["lq"] - visuals["result"])[0]
        row["rain layer"] = to_uint8(rain.expand(3, -1, -1))
        if "gt" in data:
            row["ground truth"] = to_uint8(data["gt"][0])
        yield row


def _measure(model: Any, loader: Any) -> tuple[dict[str, Any], list[dict[str, np.ndarray]], list[dict[str, str]]]:
    dataset = loader.dataset
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), MAX_PAIRS)).astype(int))
    first = dataset[int(chosen[0])]
    if "gt" not in first or first["gt"].shape != first["lq"].shape or first["gt"].shape[0] != 3:
        return {}, [], []

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
    for index in tqdm(chosen, desc=f"summary of {dataset.opt['name']}", unit="image", disable=None, leave=False):
        data = torch.utils.data.default_collate([dataset[int(index)]])
        row = next(derained_rows(model, [data]))
        images = {
            "rainy": row["rainy"],
            "baseline": to_uint8(FILTERS[baseline](data["lq"][0].permute(1, 2, 0).numpy())),
            "derained": row["derained"],
            "clean": to_uint8(_derain(model, {**data, "lq": data["gt"]})["result"][0]),
        }
        for key, image in images.items():
            scores[key].append(_score(image, row["ground truth"]))
        mean_rain.append(float(np.mean(row["rainy"].astype(float) - row["derained"]) / 255))
        if len(rows) < SHOWN:
            rows.append(row)
            captions.append({key: f"{scores[key][-1][0]:.1f} dB" for key in ("rainy", "derained")})
    figures = {
        "psnr": {key: float(np.mean([psnr for psnr, _ in values])) for key, values in scores.items()},
        "ssim": {key: float(np.mean([ssim for _, ssim in values])) for key, values in scores.items()},
        "mean_rain": float(np.mean(mean_rain)),
        "baseline": baseline,
        "images": len(chosen),
    }
    return figures, rows, captions


def _derain(model: Any, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.feed_data(data)
    model.test()
    return model.get_current_visuals()


def _score(image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    if np.array_equal(image, truth):
        return 100.0, 1.0  # equal images have no finite PSNR, which JSON could not hold
    psnr = float(calculate_psnr(image, truth, crop_border=0))
    # The window of SSIM has 11 pixels; a smaller image has no value.
    return psnr, float(calculate_ssim(image, truth, crop_border=0)) if min(image.shape[:2]) >= 11 else 0.0
