"""Results of a study of intrinsic dimension as JSON, Markdown and a plot."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from studies.intrinsic_dimension.study import CHOICES, Key, LayerResult, Settings, known_alike

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.errors import writing_to

NAME = "intrinsic_dimension"
Layers = dict[str, LayerResult]
Known = dict[Key, dict[int, float]]

_TITLES = {"random": "random patches of an image", "neighbours": "non-local neighbours of a query"}


def write_dimension_report(
    folder: str, layers: Layers, known: Known, settings: Settings, skipped: list[str]
) -> list[Path]:
    """Write what `study` and `calibrate` found into a folder, which is made if it is missing; returns the files."""
    contents = {
        ".json": json.dumps(as_json(layers, known, settings, skipped), indent=1, allow_nan=False).encode() + b"\n",
        ".md": (as_markdown(layers, known, settings) + "\n").encode(),
        ".png": as_plot(layers, known, settings),
    }
    files = []
    with writing_to(folder, advice="choose another folder"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        for ending, content in contents.items():
            files.append(Path(folder) / f"{NAME}{ending}")
            write_whole(files[-1], content)
    return files


def summary(values: list[float]) -> dict[str, float | int | None]:
    """Mean, standard deviation over images, extremes and number of finite values; None for what is unknown."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return {"mean": None, "sd": None, "min": None, "max": None, "images": 0}
    sd = float(np.std(finite, ddof=1)) if len(finite) > 1 else None
    mean = float(np.mean(finite))
    return {"mean": mean, "sd": sd, "min": min(finite), "max": max(finite), "images": len(finite)}


def as_json(layers: Layers, known: Known, settings: Settings, skipped: list[str]) -> dict[str, Any]:
    """All that was measured, in plain values; None where there is no estimate."""
    return {
        "settings": asdict(settings),
        "layers": {
            name: {
                "kind": "rain" if layer.rain else "image",
                "flat_share": {str(size): shares for size, shares in layer.flat_share.items()},
                "repeated_patches": {str(size): counts for size, counts in layer.repeated.items()},
                "estimates": [
                    {
                        **key._asdict(),
                        **summary(values),
                        "known_dimension_alike": _alike(key, values, known),
                        "sets_left_out": layer.sets_left_out.get(key, 0),
                        "per_image": [value if math.isfinite(value) else None for value in values],
                    }
                    for key, values in layer.values.items()
                ],
            }
            for name, layer in layers.items()
        },
        "known_dimensions": [
            {
                "choice": key.choice,
                "method": key.method,
                "k": key.k,
                "estimates": {str(d): value if math.isfinite(value) else None for d, value in estimates.items()},
            }
            for key, estimates in known.items()
        ],
        "skipped": skipped,
    }


def as_markdown(layers: Layers, known: Known, settings: Settings) -> str:
    """Tables: estimates of each choice of points and patch size, degenerate patches, known dimensions."""
    removed = ", mean removed" if settings.remove_mean else ""
    lines = [
        f"Mean over images ± standard deviation; RGB values{removed}. In brackets: the known dimension at which the",
        "same estimator, on as many points chosen in the same way, gives this value.",
    ]
    for choice in CHOICES:
        columns = _columns(choice, settings)
        for size in settings.patch_sizes:
            lines += ["", f"**Patches of {size}×{size}, {_TITLES[choice]}**", ""]
            lines += _head(["layer", "images", *(_label(method, k) for method, k in columns)])
            for name, layer in layers.items():
                rows = [layer.values.get(Key(choice, method, size, k), []) for method, k in columns]
                cells = [
                    _cell(Key(choice, method, size, k), row, known)
                    for (method, k), row in zip(columns, rows, strict=True)
                ]
                lines.append(_row([name, str(summary(rows[0])["images"]), *cells]))
    lines += [
        "",
        "**Degenerate patches:** flat ones (neither drawn nor queries), and drawn ones that equal another",
        "",
    ]
    lines += _head(["layer", *(f"flat, {size}×{size}" for size in settings.patch_sizes), "equal", "sets left out"])
    for name, layer in layers.items():
        shares = [
            f"{100 * float(np.mean(layer.flat_share.get(size, [math.nan]))):.1f} %" for size in settings.patch_sizes
        ]
        drawn = [count for counts in layer.repeated.values() for count in counts]
        equal = f"{sum(drawn)} of {len(drawn) * settings.num_patches}"
        sets = sum(len(v) for key, v in layer.values.items() if key.choice == "neighbours") * settings.num_queries
        lines.append(_row([name, *shares, equal, f"{sum(layer.sets_left_out.values())} of {sets}"]))
    lines += [
        "",
        f"**Bias: estimates on cubes of known dimension** ({settings.num_patches} random points; k nearest of "
        f"{settings.search_size**2} points)",
        "",
    ]
    dimensions = list(next(iter(known.values())))
    lines += _head(["points", "estimator", *(str(d) for d in dimensions)])
    for key, estimates in known.items():
        cells = [f"{estimates[d]:.1f}" for d in dimensions]
        lines.append(_row([key.choice, _label(key.method, key.k), *cells]))
    return "\n".join(lines)


def as_plot(layers: Layers, known: Known, settings: Settings) -> bytes:
    """A PNG: MLE over k for each patch size and choice of points; rain layers dashed, TwoNN as crosses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sizes, ks = settings.patch_sizes, sorted(settings.ks)
    figure = Figure(figsize=(3.2 * len(sizes) + 2.4, 6.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(sizes), sharey="row", squeeze=False)
    colours = {name: f"C{index % 10}" for index, name in enumerate(layers)}
    for row, choice in enumerate(CHOICES):
        keyed = [item for layer in layers.values() for item in layer.values.items() if item[0].choice == choice]
        drawn = [_number(summary(values)["mean"]) for _, values in keyed]
        for column, size in enumerate(sizes):
            axis = axes[row, column]
            for index, (name, layer) in enumerate(layers.items()):
                shift = 1 + 0.03 * (index - len(layers) / 2)  # bars of different layers stay apart
                style = {"color": colours[name], "label": name}
                figures = [summary(layer.values.get(Key(choice, "mle", size, k), [])) for k in ks]
                axis.errorbar(
                    [k * shift for k in ks],
                    [_number(f["mean"]) for f in figures],
                    [f["sd"] or 0.0 for f in figures],
                    linestyle="--" if layer.rain else "-",
                    marker="s" if layer.rain else "o",
                    markersize=4,
                    capsize=2,
                    **style,
                )
                two = [(None, ks[0] / 2)] if choice == "random" else [(k, k) for k in ks]
                axis.plot(
                    [place * shift for _, place in two],
                    [_number(summary(layer.values.get(Key(choice, "two_nn", size, k), []))["mean"]) for k, _ in two],
                    "x",
                    color=colours[name],
                )
            axis.set_xscale("log", base=2)
            if np.isfinite(drawn).any():  # a logarithmic axis wants something to show
                axis.set_yscale("log", base=2)
            axis.set_xticks(ks, [str(k) for k in ks])
            axis.yaxis.set_major_formatter("{x:g}")
            axis.grid(alpha=0.3, which="both")
            axis.set_title(f"{choice}, patches {size}×{size}", fontsize=10)
            axis.set_xlabel("k" if choice == "random" else "k (size of a set)")
        axes[row, 0].set_ylabel("estimated dimension")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right upper", fontsize=8, title="dashed: rain; ×: TwoNN", title_fontsize=8
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=80)
    return buffer.getvalue()


def _number(value: float | int | None) -> float:
    return math.nan if value is None else float(value)


def _columns(choice: str, settings: Settings) -> list[tuple[str, int | None]]:
    neighbours: list[int | None] = list(settings.ks) if choice == "neighbours" else [None]
    return [("mle", k) for k in settings.ks] + [("two_nn", k) for k in neighbours]


def _label(method: str, k: int | None) -> str:
    return f"{'MLE' if method == 'mle' else 'TwoNN'}{'' if k is None else f' {k}'}"


def _alike(key: Key, values: list[float], known: Known) -> str | None:
    mean = summary(values)["mean"]
    if mean is None:
        return None
    return known_alike(mean, known[key._replace(patch_size=0)], 3 * key.patch_size**2)


def _cell(key: Key, values: list[float], known: Known) -> str:
    figures = summary(values)
    if figures["mean"] is None:
        return "–"
    spread = "" if figures["sd"] is None else f" ± {figures['sd']:.1f}"
    return f"{figures['mean']:.1f}{spread} ({_alike(key, values, known)})"


def _head(titles: list[str]) -> list[str]:
    return [_row(titles), "|---" * len(titles) + "|"]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
