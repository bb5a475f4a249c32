"""The report of a training: one page that needs nothing else, no network and no file."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from torch import Tensor
from tqdm import tqdm

import nlcl_plugin
from nlcl_plugin.data.files import written_whole
from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.engine.report import curves
from nlcl_plugin.engine.report.experiment import Experiment, block, read_experiment
from nlcl_plugin.engine.report.layers import Example, Layers, TrainedStages, example, image_sets
from nlcl_plugin.engine.report.neighbours import Queries, find_queries
from nlcl_plugin.engine.report.pictures import Picture, brightened, picture
from nlcl_plugin.errors import InputError, escape
from nlcl_plugin.metrics.quality import psnr

_HERE = Path(__file__).parent
_SLIDER, _CELL = 640, 320  # pixels of the longer side


@dataclass(frozen=True)
class Shown:
    """An image of a dataset as the page shows it."""

    dataset: str
    name: str
    before: Picture
    after: Picture
    layers: list[Picture]
    note: str


@dataclass
class Pictures:
    """All pictures of a page, and why some are missing."""

    which: str = ""
    shown: list[Shown] = field(default_factory=list)
    queries: Queries | None = None
    queried: Picture | None = None
    notes: list[str] = field(default_factory=list)


def write_report(
    experiment: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    images: int = 3,
    which: str = "latest",
    progress: bool = True,
) -> Path:
    """Write the report of a training, which may be running or interrupted, as one HTML file.

    Args:
        experiment: The folder of the training, such as `experiments/nlcl_quickstart`.
        output: The file; `report.html` in that folder by default.
        images: How many images of each validation dataset are derained and shown, evenly spread.
        which: Weights they are derained with: an iteration, or `latest` for what was written last.
        progress: Whether to show a progress bar, where there is a terminal.

    Returns:
        The file.

    Raises:
        InputError: If the folder is not that of a training, a log in it is broken, there are no such weights, or the
            file cannot be written. What only pictures need (weights, images) may be missing: the page then says so.
    """
    found = read_experiment(experiment)
    page = render(found, _pictures(found, images, which, progress=progress))
    path = Path(os.path.expanduser(output)) if output is not None else found.folder / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(page.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another --output") from error
    return path


def render(experiment: Experiment, pictures: Pictures) -> str:
    """Make the page.

    All texts are escaped by the template engine, and the page's own policy lets no script run but its own and nothing
    be loaded: names of files and options come from who knows where.

    Args:
        experiment: What the training left.
        pictures: What its networks make of images.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["said"] = _said
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    sections = [
        ("Losses", curves.loss_charts(experiment.losses)),
        ("Metrics", curves.metric_charts(experiment.metrics)),
        ("Intrinsic dimensions of both layers", curves.dimension_charts(experiment.losses)),
        ("Learning rate and others", curves.other_charts(experiment.losses)),
    ]
    charts = [chart for _, found in sections for chart in found]
    numbers = iter(range(len(charts)))
    return environment.get_template("page.html").render(
        experiment=experiment,
        pictures=pictures,
        sections=[(title, [(next(numbers), chart) for chart in found]) for title, found in sections],
        data=[asdict(chart) for chart in charts],
        tables=_tables(experiment.summary),
        options=(experiment.folder / "options.yml").read_text(encoding="utf-8"),
        again=_again(experiment),
        environment=block(experiment.starts[-1], "environment") if experiment.starts else {},
        version=nlcl_plugin.__version__,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _pictures(experiment: Experiment, images: int, which: str, *, progress: bool) -> Pictures:
    result = Pictures()
    if images == 0:
        return result
    try:
        stages = TrainedStages(experiment, which)
    except InputError as error:
        if which != "latest":
            raise
        result.notes.append(str(error))
        return result
    result.which = stages.which
    sets = image_sets(experiment.options)
    if not sets:
        result.notes.append("the options name no images")
    for dataset, load in sets.items():
        try:
            hidden = None if progress else True  # None hides the bar where there is no terminal
            for sample in tqdm(load(images), total=images, desc=dataset, unit="image", disable=hidden, leave=False):
                found = example(stages, sample, sample["root"])
                result.shown.append(_shown(dataset, found))
                if result.queries is None:
                    result.queries = find_queries(found, experiment.options)
                    result.queried = picture(f"{dataset}: {found.name}", found.layers[0].image, side=_SLIDER)
        except InputError as error:
            result.notes.append(f"{dataset}: {error}")
    return result


def _shown(dataset: str, found: Example) -> Shown:
    last = found.layers[-1]
    notes = ["the middle of a larger image"] if found.cut else []
    notes += [f"the rainy image is enlarged {found.scale} times (bicubic)"] if found.scale > 1 else []
    cells = [picture("rainy O", found.rainy, side=_CELL)]
    for layers in found.layers:
        cells += _layer_pictures(layers, found.rainy, last=layers is last)
    if found.clean is not None:
        cells.append(picture("ground truth", found.clean, side=_CELL))
    return Shown(
        dataset,
        found.name,
        picture("rainy", found.rainy, side=_SLIDER, note=_psnr(found.rainy, found.clean)),
        picture("derained", last.image, side=_SLIDER, note=_psnr(last.image, found.clean)),
        cells,
        "; ".join(notes),
    )


def _layer_pictures(layers: Layers, rainy: Tensor, *, last: bool) -> list[Picture]:
    found = [picture(f"{layers.stage}: B", layers.image, side=_CELL)]
    shown, factor = brightened(layers.rain)
    found.append(
        picture(f"{layers.stage}: R", shown, side=_CELL, note=f"brightness × {factor:g}" if factor > 1 else "")
    )
    if layers.own_rain or last:  # elsewhere it is nothing, by construction, which need not be shown twice
        error = (rainy - layers.image - layers.rain).abs()
        shown, factor = brightened(error)
        note = f"brightness × {factor:g}" if layers.own_rain else "R is what B leaves of O"
        found.append(picture("|O − B − R|", shown, side=_CELL, note=f"mean {error.mean():.2g}; {note}"))
    return found


def _psnr(image: Tensor, clean: Tensor | None) -> str:
    if clean is None or image.shape != clean.shape:
        return ""
    return f"{psnr(to_uint8(image), to_uint8(clean)):.2f} dB"


def _tables(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Figures of `summary.json`, a table for each dataset: rows of a label and texts."""
    tables: list[dict[str, Any]] = []
    for name in block(summary, "datasets"):
        figures = block(summary, "datasets", name)
        psnr, ssim = block(figures, "psnr"), block(figures, "ssim")
        labels = {"rainy": "rainy, as it comes", "baseline": f"best classical filter: {figures.get('baseline')}",
                  "derained": "derained", "clean": "derain(clean), against clean"}  # fmt: skip
        rows = [
            (label, _number(psnr[key], 2), _number(ssim.get(key), 3)) for key, label in labels.items() if key in psnr
        ]
        tables.append({"name": name, "images": figures.get("images"), "head": ("PSNR (dB)", "SSIM"), "rows": rows})
    for name in block(summary, "photographs"):
        figures = block(summary, "photographs", name)
        niqe, labels = block(figures, "niqe"), {"rainy": "rainy, as they come", "derained": "derained"}
        blind = [(label, _number(niqe[key], 2)) for key, label in labels.items() if key in niqe]
        tables.append(
            {"name": name, "images": figures.get("images"), "head": ("NIQE, lower is better",), "rows": blind}
        )
    return tables


def _number(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _again(experiment: Experiment) -> str:
    """The command that trains the same once more, under another name."""
    options = os.path.relpath(experiment.folder / "options.yml")
    name = f"name={experiment.name}_again"
    return shlex.join(["basicsr", "train", "-opt", options, "--force_yml", name])


def _said(value: Any) -> str:
    """A text that can be printed, whatever it came from."""
    if isinstance(value, float) and not math.isfinite(value):
        return "not finite"
    return escape(str(value))
