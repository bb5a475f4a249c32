"""What a model does to its validation images: figures, a table and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from os import path as osp
from typing import Any

import numpy as np
import torch
from basicsr.utils import get_root_logger

from nlcl_plugin.data.files import json_text, write_whole
from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.data.progress import ProgressBar
from nlcl_plugin.errors import counted
from nlcl_plugin.metrics.classical_filters import FILTERS, best_filter
from nlcl_plugin.metrics.quality import psnr, ssim
from nlcl_plugin.pictures import Cell, save_montage

MAX_IMAGES = 100  # per summary, evenly spread: classical filters on thousands of photographs take hours
SHOWN = 4  # rows of the picture
NO_CHANGE = 0.001  # mean of |O - B|, in [0, 1], below which a network copies its input
MOST_FROM_CLEAN = 0.5  # change of clean images over that of rainy ones, above which R is not only rain (ours)

_Pictures = list[Mapping[str, Cell | np.ndarray]]  # rows, by column


def summarise(model: Any, loaders: list[Any], folder: str, best: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Measure a model on every dataset it was just validated on, with pairs or without.

    `folder` gets `summary.json`, with `best` of `checkpoint.choose_best`, `summary.png` of the first dataset with pairs
    and `summary_NAME.png` of each other one.

    Returns:
        The figures of the first dataset with pairs (PSNR in dB and SSIM on 8-bit RGB, `mean_rain` in [0, 1]), with
        those of all under `datasets`, those of datasets without pairs under `photographs` (NIQE, as validated; lower
        is better), `best`, and `verdict`, lines of text. None if there are neither. `baseline` is the best of some
        classical filters on these very pairs, a choice in its favour. `clean` compares the derained clean images with
        themselves. `split_error` is the mean of |O - B - R|, `mean_change` that of |O - B| and `clean_change` that of
        |C - B| of clean images C, all in [0, 1]; without pairs, of the photographs that are shown.
    """
    datasets: dict[str, dict[str, Any]] = {}
    photographs: dict[str, dict[str, Any]] = {}
    pictures = []
    for loader in loaders:
        name = loader.dataset.opt["name"]
        figures, rows = _with_pairs(model, loader.dataset) or _without_pairs(model, loader.dataset) or ({}, [])
        if figures:
            first = "psnr" in figures and not datasets
            pictures.append(osp.join(folder, "summary.png" if first else f"summary_{name}.png"))
            (datasets if "psnr" in figures else photographs)[name] = figures
            save_montage(pictures[-1], rows)
    if not pictures:
        return None
    summary = {**next(iter(datasets.values()), {}), "datasets": datasets, "photographs": photographs}
    summary["verdict"] = verdict(datasets, photographs)
    if best:
        summary["best"] = best
        summary["verdict"] += _compare_with_best(model, loaders, best)
    path = osp.join(folder, "summary.json")
    write_whole(path, json_text(summary, indent=2).encode())
    shown = "\n".join(f"Picture: {picture}" for picture in pictures)
    lines = "\n".join(f"- {line}" for line in summary["verdict"])
    get_root_logger().info(f"Summary\n{table(datasets, photographs)}\n{lines}\nFigures: {path}\n{shown}")
    return summary


def table(datasets: dict[str, dict[str, Any]], photographs: dict[str, dict[str, Any]]) -> str:
    """Format the figures of `summarise` as lines of text."""
    width = max([22, *(len(figures["baseline"]) for figures in datasets.values())])
    lines = [f"{'':{width + 2}} {'PSNR (dB)':>10} {'SSIM':>8}"] if datasets else []
    for name, figures in datasets.items():
        lines.append(f"{name} ({counted(figures['images'], 'pair')})")
        labels = {"rainy": "rainy, not derained", "baseline": figures["baseline"], "clean": "derain(clean)"}
        for key in ("rainy", "baseline", "derained", "clean"):
            lines.append(f"  {labels.get(key, key):{width}} {figures['psnr'][key]:10.2f} {figures['ssim'][key]:8.3f}")
    for name, figures in photographs.items():
        niqe = figures["niqe"]
        text = "no NIQE: too small, or val.metrics has others"
        if niqe:
            text = f"NIQE {niqe['rainy']:.2f} before, {niqe['derained']:.2f} after deraining (lower is better)"
        lines.append(f"{name} ({counted(figures['images'], 'photograph')} without ground truth): {text}")
    return "\n".join(lines)


def verdict(datasets: dict[str, dict[str, Any]], photographs: dict[str, dict[str, Any]]) -> list[str]:
    """Say in plain words what the figures of `summarise` mean, and where to read on; a line per finding."""
    lines = []
    for name, figures in {**photographs, **datasets}.items():
        change = figures["mean_change"]
        if change < NO_CHANGE:
            lines.append(
                f"{name}: the network changes nothing (mean |O - B| {change:.5f}); "
                'see "R is nearly empty" in docs/faq.md'
            )
        elif figures.get("clean_change", 0.0) > MOST_FROM_CLEAN * change:
            lines.append(
                f"{name}: the rain layer is not only rain: clean images lose {figures['clean_change']:.4f}, rainy ones "
                f'{change:.4f} (mean |O - B|); see "R contains edges" in docs/faq.md'
            )
    for name, figures in datasets.items():
        psnr = figures["psnr"]
        gain, lead = psnr["derained"] - psnr["rainy"], psnr["derained"] - psnr["baseline"]
        result = "deraining does better than the best classical filter"
        if gain <= 0:
            result = "deraining does not help these images; see in the picture what R contains"
        elif lead <= 0:
            result = "the best classical filter does better than this network"
        lines.append(f"{name}: {result} ({gain:+.2f} dB over the rainy image, {lead:+.2f} dB over the filter)")
    return lines


def _compare_with_best(model: Any, loaders: list[Any], best: dict[str, Any]) -> list[str]:
    """Name an earlier iteration that was better, by the first dataset that has the metric, as `choose_best` does."""
    metrics = [getattr(model, "last_metrics", {}).get(loader.dataset.opt["name"], {}) for loader in loaders]
    values = [found.get(best["metric"], math.nan) for found in metrics]
    last = next(filter(math.isfinite, values), best["value"])
    if last == best["value"]:
        return []
    return [
        f"iteration {best['iter']:,} was the best in validation: {best['metric']} {best['value']:.4f}, at the end "
        f"{last:.4f}; derain and report use the best"
    ]


def _without_pairs(model: Any, dataset: Any) -> tuple[dict[str, Any], _Pictures] | None:
    metrics = getattr(model, "last_metrics", {}).get(dataset.opt["name"])
    if metrics is None or "gt" in dataset[0]:
        return None
    # The validation derained them all; here only those that are shown are derained again.
    shown = [_derain(model, _sample(dataset, index)) for index in _spread(dataset, SHOWN)]
    measured = {"niqe", "niqe_rainy"} <= metrics.keys()
    niqe = {"rainy": metrics["niqe_rainy"], "derained": metrics["niqe"]} if measured else None
    figures = {
        "niqe": niqe,
        "mean_change": float(np.mean([float((visuals["lq"] - visuals["result"]).abs().mean()) for visuals in shown])),
        "split_error": float(np.mean([*map(_split_error, shown)])),
        "images": len(dataset),
    }
    return figures, [_row(visuals) for visuals in shown]


def _with_pairs(model: Any, dataset: Any) -> tuple[dict[str, Any], _Pictures] | None:
    chosen = _spread(dataset, MAX_IMAGES)
    first = dataset[chosen[0]]
    if "gt" not in first or first["gt"].shape != first["lq"].shape or first["gt"].shape[0] != 3:
        return None
    name = dataset.opt["name"]
    get_root_logger().info(
        f"Summary of {name}: classical filters and derain(clean) on {counted(len(chosen), 'image')}, for comparison"
    )

    def samples(what: str) -> Iterator[dict[str, Any]]:
        for index in ProgressBar(chosen, desc=f"{what} {name}", unit="image", leave=False):
            yield _sample(dataset, index)

    baseline, _ = best_filter((_array(data["lq"]), _array(data["gt"])) for data in samples("filters on"))
    scores: list[dict[str, tuple[float, float]]] = []
    rows: _Pictures = []
    layers: list[dict[str, float]] = []
    for data in samples("summary of"):
        visuals = _derain(model, data)
        row = {**_row(visuals), "ground truth": to_uint8(data["gt"][0])}
        images = {
            "rainy": row["rainy"],
            "baseline": to_uint8(FILTERS[baseline](_array(data["lq"]))),
            "derained": row["derained"],
            "clean": to_uint8(_derain(model, {**data, "lq": data["gt"]})["result"][0]),
        }
        truth = row["ground truth"]
        scores.append({key: (psnr(image, truth), ssim(image, truth)) for key, image in images.items()})
        taken = (row["rainy"].astype(float) - row["derained"]) / 255
        layers.append(
            {
                "mean_rain": taken.mean(),
                "mean_change": np.abs(taken).mean(),
                "clean_change": np.abs(truth.astype(float) - images["clean"]).mean() / 255,
                "split_error": _split_error(visuals),
            }
        )
        if len(rows) < SHOWN:
            captioned = {key: Cell(row[key], f"{scores[-1][key][0]:.1f} dB") for key in ("rainy", "derained")}
            rows.append({**row, **captioned})
    means = {key: np.mean([score[key] for score in scores], axis=0).tolist() for key in scores[0]}
    figures = {
        "psnr": {key: decibels for key, (decibels, _) in means.items()},
        "ssim": {key: similarity for key, (_, similarity) in means.items()},
        **{key: float(np.mean([one[key] for one in layers])) for key in layers[0]},
        "baseline": baseline,
        "images": len(chosen),
    }
    return figures, rows


def _spread(dataset: Any, most: int) -> list[int]:
    """Indices of at most so many images, evenly spread."""
    return np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), most)).astype(int)).tolist()


def _sample(dataset: Any, index: int) -> dict[str, Any]:
    return torch.utils.data.default_collate([dataset[index]])


def _array(batch: torch.Tensor) -> np.ndarray:
    return batch[0].permute(1, 2, 0).numpy()


def _derain(model: Any, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    model.feed_data(data)
    model.test()
    visuals = model.get_current_visuals()
    return {"rain": visuals["lq"] - visuals["result"], **visuals}


def _row(visuals: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Pictures by title, (H, W, 3) uint8 RGB."""
    row = {key: to_uint8(visuals[source][0]) for key, source in (("rainy", "lq"), ("derained", "result"))}
    return {**row, "rain layer": to_uint8(visuals["rain"][0].expand(3, -1, -1))}


def _split_error(visuals: dict[str, torch.Tensor]) -> float:
    """Mean of |O - B - R|: zero where one network makes both layers."""
    return float((visuals["lq"] - visuals["result"] - visuals["rain"]).abs().mean())
