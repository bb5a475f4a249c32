"""From logs to curves that a page can hold: moving means, floors, and as many points as can be seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nlcl_plugin.engine.report.experiment import block

MAX_POINTS = 500  # of a curve; a chart is about as many pixels wide
_ABOVE = "_above_floor"
_NUMBER = int | float | None  # as JSON has them; null is one that is not finite


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        name: What it shows.
        kind: `value`, `mean` or `floor`: how it is drawn.
        points: Iteration and value; None for a value that is not finite.
    """

    name: str
    kind: str
    points: list[tuple[int, float | None]]


@dataclass(frozen=True)
class Chart:
    """Curves with common axes.

    Attributes:
        title: What they show.
        curves: They.
        note: A line below.
    """

    title: str
    curves: list[Curve]
    note: str = ""


def loss_charts(losses: Sequence[dict[str, Any]]) -> list[Chart]:
    """A chart for each loss: its values, their moving mean and, where it has one, its floor.

    Args:
        losses: Entries of `losses.jsonl`. The floor of `l_x` is `l_x` minus `l_x_above_floor`.

    Returns:
        The charts, in the order in which the losses came up.
    """
    keys = [key for key in _keys(losses) if key.startswith("l_") and not key.endswith(_ABOVE)]
    return [_loss_chart(key, losses) for key in keys]


def other_charts(losses: Sequence[dict[str, Any]]) -> list[Chart]:
    """Charts of the learning rate and of all else that is logged and no loss, but for the dimensions."""
    rest = [key for key in _keys(losses) if not key.startswith(("l_", "lr", "dim_", "log_dim_ratio", "iter", "epoch"))]
    charts = [("lr", "learning rate"), *((key, key) for key in rest)]
    found = [(title, _points(losses, key)) for key, title in charts]
    return [Chart(title, [_curve(title, points)], _last(points)) for title, points in found if points]


def dimension_charts(losses: Sequence[dict[str, Any]]) -> list[Chart]:
    """Intrinsic dimensions of both layers, and the logarithm of their ratio; none where they are not logged."""
    layers = {"dim_image": "image layer B", "dim_rain": "rain layer R"}
    both = [_curve(name, _points(losses, key)) for key, name in layers.items()]
    ratio = _points(losses, "log_dim_ratio")
    charts = [Chart("intrinsic dimension", both)] if any(curve.points for curve in both) else []
    return charts + ([Chart("log of their ratio, B to R", [_curve("log ratio", ratio)], _last(ratio))] if ratio else [])


def metric_charts(metrics: Sequence[dict[str, Any]]) -> list[Chart]:
    """A chart for each metric, with a curve for each dataset.

    Args:
        metrics: Entries of `metrics.jsonl`.
    """
    names = dict.fromkeys(name for entry in metrics for name in block(entry, "metrics"))
    datasets = dict.fromkeys(str(entry.get("dataset")) for entry in metrics)
    charts = []
    for name in names:
        curves = []
        for dataset in datasets:
            own = [{**block(e, "metrics"), "iter": e["iter"]} for e in metrics if str(e.get("dataset")) == dataset]
            curves.append(_curve(dataset, _points(own, name)))
        charts.append(Chart(name, [curve for curve in curves if curve.points]))
    return [chart for chart in charts if chart.curves]


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and those before it, up to so many in all; values that are not finite are passed over.

    Example:
        >>> moving_mean([4.0, 2.0, 6.0, 1.0], 2)
        [4.0, 3.0, 4.0, 3.5]
    """
    means = []
    for end in range(1, len(values) + 1):
        part = [value for value in values[max(0, end - window) : end] if math.isfinite(value)]
        means.append(sum(part) / len(part) if part else math.nan)
    return means


def thinned(points: Sequence[tuple[int, float]], most: int = MAX_POINTS) -> list[tuple[int, float]]:
    """At most so many points of a curve: of each stretch the least and the greatest, and the last of all.

    Example:
        >>> thinned([(i, float(i == 5)) for i in range(9)], most=5)
        [(0, 0.0), (4, 0.0), (5, 1.0), (8, 0.0)]
    """
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / max(1, (most - 1) // 2))
    kept = {len(points) - 1}
    for start in range(0, len(points), size):
        stretch = range(start, min(start + size, len(points)))
        faulty = [index for index in stretch if not math.isfinite(points[index][1])]
        kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1]), *faulty[:1]}
    return [points[index] for index in sorted(kept)]


def _keys(entries: Sequence[dict[str, Any]]) -> list[str]:
    numbers = (key for entry in entries for key, value in entry.items() if isinstance(value, _NUMBER))
    return list(dict.fromkeys(numbers))


def _points(entries: Sequence[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    found = [(entry["iter"], entry[key]) for entry in entries if key in entry and isinstance(entry[key], _NUMBER)]
    return [(i, math.nan if value is None else float(value)) for i, value in found]


def _loss_chart(key: str, losses: Sequence[dict[str, Any]]) -> Chart:
    points = _points(losses, key)
    iterations, values = zip(*points, strict=True)
    window = min(100, max(5, len(points) // 20))
    means = [float(f"{mean:.6g}") for mean in moving_mean(values, window)]
    curves = [
        _curve("value", points),
        _curve(f"mean of the last {window} logged", list(zip(iterations, means, strict=True)), "mean"),
    ]
    above = dict(_points(losses, f"{key}{_ABOVE}"))
    floor = [(i, float(f"{value - above[i]:.6g}")) for i, value in points if i in above]
    if floor:
        curves.append(_curve("floor", floor, "floor"))
    least = f"; {floor[-1][1]:.4g} is its floor" if floor else ""
    return Chart(key, curves, f"{_last(points)}{least}")


def _curve(name: str, points: list[tuple[int, float]], kind: str = "value") -> Curve:
    return Curve(name, kind, [(i, value if math.isfinite(value) else None) for i, value in thinned(points)])


def _last(points: Sequence[tuple[int, float]]) -> str:
    return f"{points[-1][1]:.4g} at iteration {points[-1][0]:,d}"
