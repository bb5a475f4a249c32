"""What a study found: a table for each validation set, differences seed by seed, a plot."""

import json
import math
import os
import platform
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from studies.execute import result_of
from studies.pictures import show_photographs
from studies.plan import Study, Training

from nlcl_plugin.data.files import write_whole, written_whole
from nlcl_plugin.version import __version__

MEASURES = ("psnr", "ssim")


@dataclass(frozen=True)
class Figures:
    """What one arm reached with one seed on one validation set, pooled over its parts.

    Attributes:
        values: By measure (`psnr` in dB, `ssim`) and image (`rainy`, `baseline`, `derained`, `clean`).
        baseline: The best classical filter.
        images: Validation images.
    """

    values: dict[str, dict[str, float]]
    baseline: str
    images: int


def write_study_report(study: Study, found: list[Training], folder: Path, *, out: Path | None, command: str) -> str:
    """Write report.md, report.json and report.png.

    Args:
        study: The study.
        found: Its trainings, with or without results.
        folder: The study's folder.
        out: A second place, such as the documentation's folder.
        command: What makes this report.

    Returns:
        The table in Markdown.
    """
    results = {training: result_of(training, folder) for training in found}
    tables = {name: _pooled(name, results) for name in dict.fromkeys(training.dataset for training in found)}
    lines = [f"# {study.title}", "", f"Written by `{command}` on {_machine()}.",
             "The study file says what each arm changes.", *_state(results), ""]  # fmt: skip
    record: dict[str, Any] = {"study": study.name, "command": command, "machine": _machine(), "sets": {}}
    pictures = []
    for dataset, sets in tables.items():
        for name, arms in sets.items():
            title = dataset if len(sets) == 1 else f"{dataset}, {name}"
            differences = {f"{a} − {b}": _difference(arms, a, b) for a, b in study.compare if a in arms and b in arms}
            lines += _table(title, arms, _minutes(dataset, results)) + _difference_table(differences)
            pictures.append((title, arms))
            record["sets"][title] = {
                "arms": {arm: {seed: f.values for seed, f in seeds.items()} for arm, seeds in arms.items()},
                "differences": differences,
            }
    lines += _photograph_tables(results)
    folder.mkdir(parents=True, exist_ok=True)
    places = [(folder / "report.md", folder / "report.png")]
    if out is not None:
        (out / "images").mkdir(parents=True, exist_ok=True)
        places.append((out / f"{study.name}.md", out / "images" / f"{study.name}.png"))
    if pictures:
        for _, picture in places:
            _plot(pictures, picture)
    for page, picture in places:
        links = [f"![PSNR of each training]({picture.relative_to(page.parent)})"] if pictures else []
        for title, sheet in show_photographs(study.show, results, folder, picture).items():
            links += ["", f"![{title}: rainy, then {', '.join(study.show)}]({sheet.relative_to(page.parent)})"]
        write_whole(page, ("\n".join(lines + links) + "\n").encode())
    write_whole(folder / "report.json", (json.dumps(record, indent=2) + "\n").encode())
    return "\n".join(lines)


def _machine() -> str:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{platform.machine()}, {os.cpu_count()} CPU cores, {device}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, nlcl_plugin {__version__}"
    )


def _state(results: dict[Training, Any]) -> list[str]:
    missing = [training.place for training, result in results.items() if result is None]
    stopped = [training.place for training, result in results.items() if result and result["outcome"] == "stopped"]
    lines = []
    if missing:
        lines += ["", f"**{len(missing)} of {len(results)} trainings have no result yet.**"]
    if stopped:
        lines += ["", f"Stopped by themselves (NaN or an empty rain layer), left out below: {', '.join(stopped)}."]
    return lines


def _pooled(dataset: str, results: dict[Training, Any]) -> dict[str, dict[str, dict[int, Figures]]]:
    """Figures by validation set, arm and seed; an arm's seed counts when all its parts are there."""
    parts: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for training, result in results.items():
        if training.dataset == dataset:
            parts[training.arm, training.seed].append(result)
    sets: dict[str, dict[str, dict[int, Figures]]] = {}
    for (arm, seed), found in parts.items():
        if any(result is None or result["outcome"] != "done" for result in found):
            continue
        for name in (name for name in found[0]["figures"] if all(name in result["figures"] for result in found)):
            pool = [result["figures"][name] for result in found]
            images = [part["images"] for part in pool]
            values = {
                measure: {
                    key: float(np.average([part[measure][key] for part in pool], weights=images))
                    for key in pool[0][measure]
                }
                for measure in MEASURES
            }
            baselines = dict.fromkeys(part["baseline"] for part in pool)
            figures = Figures(values, " / ".join(baselines), sum(images))
            sets.setdefault(name, {}).setdefault(arm, {})[seed] = figures
    return sets


def _photograph_tables(results: dict[Training, Any]) -> list[str]:
    """NIQE of photographs without pairs, by arm."""
    sets: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for training, result in results.items():
        for name, figures in (result or {}).get("photographs", {}).items():
            if figures["niqe"]:
                sets[f"{name}, networks of {training.dataset}"][training.arm].append(figures)
    lines = []
    for title, arms in sets.items():
        some = next(iter(arms.values()))[0]
        lines += [
            f"## {title} ({some['images']} without pairs)",
            "",
            f"NIQE by seed; {some['niqe']['rainy']:.2f} before, lower is better. *split error*: mean |O − B − R|",
            "in [0, 1], zero where one network makes both layers.",
            "",
            "| | NIQE by seed | NIQE | split error |",
            "|---|---|---|---|",
        ]
        for arm, found in arms.items():
            values = [figures["niqe"]["derained"] for figures in found]
            error = np.mean([figures["split_error"] for figures in found])
            each = " ".join(f"{value:.2f}" for value in values)
            lines.append(f"| {arm} | {each} | **{np.mean(values):.2f}** | {error:.3f} |")
        lines.append("")
    return lines


def _minutes(dataset: str, results: dict[Training, Any]) -> dict[str, float]:
    sums: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    for training, result in results.items():
        if training.dataset == dataset and result is not None:
            sums[training.arm][training.seed] += result["minutes"]
    return {arm: float(np.mean(list(seeds.values()))) for arm, seeds in sums.items()}


def _table(title: str, arms: dict[str, dict[int, Figures]], minutes: dict[str, float]) -> list[str]:
    whole = _reference(arms)
    lines = [
        f"## {title} ({whole.images} pairs)",
        "",
        "PSNR (dB) and SSIM on whole 8-bit RGB images; *clean*: PSNR of derain(clean) against clean; *minutes*: mean",
        "wall time of a training with its validation, beside others.",
        "",
        "| | PSNR by seed | PSNR | over rainy | SSIM | clean | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for label, key in (("rainy, not derained", "rainy"), (f"best classical filter: {whole.baseline}", "baseline")):
        psnr, ssim = (whole.values[measure][key] for measure in MEASURES)
        over = psnr - whole.values["psnr"]["rainy"]
        lines.append(f"| {label} | | {psnr:.2f} | {over:+.2f} | {ssim:.3f} | | |")
    for arm, seeds in arms.items():
        psnr = [f.values["psnr"]["derained"] for f in seeds.values()]
        gain = np.mean([f.values["psnr"]["derained"] - f.values["psnr"]["rainy"] for f in seeds.values()])
        ssim = np.mean([f.values["ssim"]["derained"] for f in seeds.values()])
        clean = np.mean([f.values["psnr"]["clean"] for f in seeds.values()])
        each = " ".join(f"{value:.2f}" for value in psnr)
        lines.append(
            f"| {arm} | {each} | **{np.mean(psnr):.2f}** | {gain:+.2f} | {ssim:.3f} | {clean:.1f} "
            f"| {minutes[arm]:.1f} |"
        )
    return [*lines, ""]


def _reference(arms: dict[str, dict[int, Figures]]) -> Figures:
    """Figures whose rainy images and best filter stand for all arms.

    Of arms in parts the filter was chosen part by part; the others' is chosen on all pairs.
    """
    found = [figures for seeds in arms.values() for figures in seeds.values()]
    return next((figures for figures in found if " / " not in figures.baseline), found[0])


def _difference(arms: dict[str, dict[int, Figures]], first: str, second: str) -> dict[str, Any]:
    """PSNR of one arm minus another's, seed by seed, with a 95 % interval of the mean (Student's t)."""
    seeds = [seed for seed in arms[first] if seed in arms[second]]
    values = [
        arms[first][seed].values["psnr"]["derained"] - arms[second][seed].values["psnr"]["derained"] for seed in seeds
    ]
    return {"seeds": seeds, "values": values, **interval(values)}


def interval(values: list[float]) -> dict[str, float]:
    """`mean` of values and `half` the width of its 95 % interval (Student's t); infinite for a single value."""
    if not values:
        return {"mean": math.nan, "half": math.inf}
    if len(values) == 1:
        return {"mean": values[0], "half": math.inf}
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return {"mean": float(np.mean(values)), "half": float(stats.t.ppf(0.975, len(values) - 1)) * error}


def _difference_table(differences: dict[str, dict[str, Any]]) -> list[str]:
    if not differences:
        return []
    lines = ["| PSNR difference (dB) | by seed | mean | 95 % interval |", "|---|---|---|---|"]
    for name, difference in differences.items():
        each = " ".join(f"{value:+.2f}" for value in difference["values"])
        mean, half = difference["mean"], difference["half"]
        between = f"{mean - half:+.2f} to {mean + half:+.2f}" if math.isfinite(half) else "unknown"
        lines.append(f"| {name} | {each} | {mean:+.2f} | {between} |")
    return [*lines, ""]


def _plot(pictures: list[tuple[str, dict[str, dict[int, Figures]]]], path: Path) -> None:
    from matplotlib.figure import Figure  # no pyplot: no window system is needed

    rows = max(len(arms) for _, arms in pictures)
    heights = [1.4 + 0.34 * rows, 4.0]
    figure = Figure(figsize=(1 + 5 * len(pictures), sum(heights)), layout="constrained")
    grid = figure.subplots(2, len(pictures), squeeze=False, height_ratios=heights)
    for axes, (_, arms) in zip(grid[1], pictures, strict=True):
        _plot_trade_off(axes, arms)
    for axes, (title, arms) in zip(grid[0], pictures, strict=True):
        for row, seeds in enumerate(arms.values()):
            values = [f.values["psnr"]["derained"] for f in seeds.values()]
            axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.55, markersize=5)
            axes.plot([np.mean(values)] * 2, [row - 0.32, row + 0.32], color="black", linewidth=1.5)
        reference = _reference(arms)
        for key, style in (("rainy", ":"), ("baseline", "--")):
            label = "rainy, not derained" if key == "rainy" else "best classical filter"
            axes.axvline(reference.values["psnr"][key], color="grey", linestyle=style, linewidth=1, label=label)
        axes.set_yticks(range(len(arms)), list(arms))
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)
        axes.set_title(f"{title}: dots are seeds, bars their means".replace("$", r"\$"), fontsize=9)
        axes.set_xlabel("PSNR (dB)")
        axes.legend(fontsize=7, loc="best")
    with written_whole(path) as file:
        figure.savefig(file, format="png", dpi=110)


def _plot_trade_off(axes: Any, arms: dict[str, dict[int, Figures]]) -> None:
    """What is left of clean images against what is gained on rainy ones."""
    for number, (arm, seeds) in enumerate(arms.items()):
        clean = [f.values["psnr"]["clean"] for f in seeds.values()]
        gain = [f.values["psnr"]["derained"] - f.values["psnr"]["rainy"] for f in seeds.values()]
        marker = "os^Dv<>PpX*"[number % 11]  # one more than there are colours, so that no two arms look alike
        axes.plot(clean, gain, marker, color=f"C{number % 10}", alpha=0.3, markersize=4)
        axes.plot(np.mean(clean), np.mean(gain), marker, color=f"C{number % 10}", label=arm)
    axes.set_xlabel("PSNR of derain(clean) (dB)")
    axes.set_ylabel("PSNR over rainy (dB)")
    axes.set_title("what rainy images gain, what clean ones keep", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="best")
