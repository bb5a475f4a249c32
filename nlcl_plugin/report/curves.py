"""Charts of a page, from the logs: losses with moving means and floors, metrics, dimensions and all else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from nlcl_plugin.report.experiment import block

MAX_POINTS = 500  # per curve; a chart is about as many pixels wide

Entries = Sequence[dict[str, Any]]  # of losses.jsonl or metrics.jsonl
Points = list[tuple[int, float]]


class Curve(NamedTuple):
    """A line of a chart: its name, iterations with values, and how it is drawn (`value`, `mean` or `floor`)."""

    name: str
    points: list[tuple[int, float | None]]  # None for a value that is not finite
    kind: str


class Chart(NamedTuple):
    """Curves with common axes, and a line of text below them."""

    title: str
    curves: list[Curve]
    note: str = ""


def loss_charts(losses: Entries) -> list[Chart]:
    """One chart per loss: its values, their moving mean, and its floor where `l_x_above_floor` is logged with `l_x`."""
    charts = []
    for key in [key for key in _keys(losses) if key.startswith("l_") and not key.endswith("_above_floor")]:
        points, note = _points(losses, key), _last(losses, key)
        window = min(100, max(5, len(points) // 20))
        means = moving_mean([value for _, value in points], window)
        smooth = [(i, mean) for (i, _), mean in zip(points, means, strict=True)]
        curves = [_curve("value", points), _curve(f"mean of the last {window} logged", smooth, "mean")]
        above = dict(_points(losses, f"{key}_above_floor"))
        if floor := [(i, value - above[i]) for i, value in points if i in above]:
            curves.append(_curve("floor", floor, "floor"))
            note += f"; {floor[-1][1]:.4g} is its floor"
        charts.append(Chart(key, curves, note))
    return charts


def other_charts(losses: Entries) -> list[Chart]:
    """Charts of the learning rates, a curve per optimizer, and of all that is logged except losses and dimensions."""
    left_out = ("l_", "lr", "dim_", "log_dim_ratio", "iter", "epoch")
    others = {key: key for key in _keys(losses) if not key.startswith(left_out)}
    rates = [key for key in _keys(losses) if key.startswith("lr_")] or ["lr"]
    found = [_curve(key.replace("lr_", "optim_"), points) for key in rates if (points := _points(losses, key))]
    charts = [Chart("learning rate", found)] if found else []
    return charts + _single_charts(losses, others)


def dimension_charts(losses: Entries) -> list[Chart]:
    """Intrinsic dimensions of both layers and the logarithm of their ratio; none where they are not logged."""
    layers = {"dim_image": "image layer B", "dim_rain": "rain layer R"}
    curves = [_curve(name, points) for key, name in layers.items() if (points := _points(losses, key))]
    charts = [Chart("intrinsic dimension", curves)] if curves else []
    return charts + _single_charts(losses, {"log_dim_ratio": "log of their ratio, B to R"})


def metric_charts(metrics: Entries) -> list[Chart]:
    """One chart per metric, with one curve per dataset."""
    datasets: dict[str, list[dict[str, Any]]] = {}
    for entry in metrics:
        datasets.setdefault(str(entry.get("dataset")), []).append({**block(entry, "metrics"), "iter": entry["iter"]})
    charts: dict[str, list[Curve]] = {}
    for dataset, entries in datasets.items():
        for name in _keys(entries):
            charts.setdefault(name, []).append(_curve(dataset, _points(entries, name)))
    return [Chart(name, curves) for name, curves in charts.items() if name != "iter"]


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and those before it, at most `window` in all, except values that are not finite."""
    means = []
    for end in range(1, len(values) + 1):
        finite = [value for value in values[max(0, end - window) : end] if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def thinned(points: Points, most: int = MAX_POINTS) -> Points:
    """At most so many points of a curve: the least and the greatest of each stretch, and the last of all.

    Example:
        >>> thinned([(i, float(i == 5)) for i in range(9)], most=5)
        [(0, 0.0), (5, 1.0), (6, 0.0), (8, 0.0)]
    """
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / max(1, (most - 1) // 2))
    kept = {len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        kept |= {choose(stretch, key=lambda i: points[i][1]) for choose in (min, max)}
    return [points[index] for index in sorted(kept)]


def _keys(entries: Entries) -> list[str]:
    return list(dict.fromkeys(key for entry in entries for key in entry if _is_number(entry[key])))


def _points(entries: Entries, key: str) -> Points:
    found = [(entry["iter"], entry[key]) for entry in entries if key in entry and _is_number(entry[key])]
    return [(i, math.nan if value is None else float(value)) for i, value in found]


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, int | float)  # null is one that is not finite


def _single_charts(entries: Entries, titles: dict[str, str]) -> list[Chart]:
    found = {key: points for key in titles if (points := _points(entries, key))}
    return [Chart(titles[key], [_curve(titles[key], found[key])], _last(entries, key)) for key in found]


def _curve(name: str, points: Points, kind: str = "value") -> Curve:
    return Curve(name, [(i, value if math.isfinite(value) else None) for i, value in thinned(points)], kind)


def _last(entries: Entries, key: str) -> str:
    iteration, value = _points(entries, key)[-1]
    return f"{value:.4g} at iteration {iteration:,d}"
