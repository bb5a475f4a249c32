"""The report of a training: one page that needs nothing else, no network and no file."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import re
import shlex
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from torch import Tensor

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.data.progress import ProgressBar
from nlcl_plugin.errors import InputError, escape, writing_to
from nlcl_plugin.inference.derainer import ShapeError
from nlcl_plugin.metrics.quality import psnr
from nlcl_plugin.pictures import EmbeddedPicture, embed, embed_rain
from nlcl_plugin.report import curves
from nlcl_plugin.report.experiment import Experiment, block, read_experiment
from nlcl_plugin.report.layers import Example, TrainedStages, image_sets, split_examples
from nlcl_plugin.report.neighbours import Queries, find_queries
from nlcl_plugin.version import __version__

_HERE = Path(__file__).parent
_SLIDER, _CELL = 640, 320  # pixels of the longer side


class EmbeddedExample(NamedTuple):
    """An image of a dataset as the page shows it: rainy and derained below a slider, and all layers in a strip."""

    dataset: str
    name: str
    before: EmbeddedPicture
    after: EmbeddedPicture
    strip: list[EmbeddedPicture]
    note: str


@dataclass
class PagePictures:
    """All pictures of a page, the iteration of the weights that made them, and why some are missing."""

    which: str = ""
    examples: list[EmbeddedExample] = field(default_factory=list)
    queries: Queries | None = None
    notes: list[str] = field(default_factory=list)


def write_report(
    experiment: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    images: int = 3,
    which: str | None = None,
) -> Path:
    """Write the report of a training, which may be running or interrupted, as one HTML file.

    Args:
        experiment: The folder of the training, such as `experiments/nlcl_quickstart`.
        output: The file; `report.html` in that folder by default.
        images: How many images of each validation dataset are derained and shown, evenly spread.
        which: The weights that derain them: an iteration or `latest`; by default those that were best in validation,
            without one the newest.

    Returns:
        The file.

    Raises:
        InputError: If the folder is not that of a training, a log in it is broken, there are no such weights, or the
            file cannot be written. What only pictures need (weights, images) may be missing: the page then says so.
    """
    found = read_experiment(experiment)
    pictures = _pictures(found, images, which)
    for note in pictures.notes:
        warnings.warn(f"pictures are missing: {note}", stacklevel=2)
    page = render(found, pictures)
    path = Path(os.path.expanduser(output)) if output is not None else found.folder / "report.html"
    with writing_to(path, advice="give another --output"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page.encode("utf-8", "backslashreplace"))
    return path


def render(experiment: Experiment, pictures: PagePictures) -> str:
    """Make the HTML.

    Names and options may come from anyone: all texts are escaped, and by the page's own policy no script runs except
    its own, and nothing is loaded.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters.update(printable=_printable, figure=_figure)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    sections = [
        ("Losses", curves.loss_charts(experiment.losses)),
        ("Metrics", curves.metric_charts(experiment.metrics)),
        ("Intrinsic dimensions of both layers", curves.dimension_charts(experiment.losses)),
        ("Learning rate and others", curves.other_charts(experiment.losses)),
    ]
    charts = [chart for _, found in sections for chart in found]
    numbers = iter(range(len(charts)))
    options = experiment.folder / "options.yml"
    started = experiment.starts[-1].get("command", "") if experiment.starts else ""
    imports = [word for name in re.findall(r" --import[ =]([\w.]+)", started) for word in ("--import", name)]
    again = ["basicsr", "train", "-opt", os.path.relpath(options), "--force_yml", f"name={experiment.name}_again"]
    return environment.get_template("page.html").render(
        experiment=experiment,
        pictures=pictures,
        sections=[(title, [(next(numbers), chart) for chart in found]) for title, found in sections if found],
        data=[{"title": chart.title, "curves": [curve._asdict() for curve in chart.curves]} for chart in charts],
        block=block,
        options=options.read_text(encoding="utf-8"),
        again=shlex.join([*again, *imports]),
        version=__version__,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def _pictures(experiment: Experiment, images: int, which: str | None) -> PagePictures:
    result = PagePictures()
    if images == 0:
        return result
    try:
        stages = TrainedStages(experiment, which)
    except InputError as error:
        if which is not None and not isinstance(error, ShapeError):
            raise
        return PagePictures(notes=[str(error)])
    result.which = stages.which
    sets = image_sets(experiment.options)
    if not sets:
        result.notes.append("the options name no images")
    for dataset, options in sets.items():
        try:
            found = split_examples(stages, options, images)
            for example in ProgressBar(found, total=images, desc=dataset, unit="image", leave=False):
                result.examples.append(_embedded(dataset, example))
                if result.queries is None:
                    picture = embed(f"{dataset}: {example.name}", example.layers[0].image, side=_SLIDER)
                    result.queries = find_queries(example, experiment.options, picture)
        except InputError as error:
            result.notes.append(f"{dataset}: {error}")
    return result


def _embedded(dataset: str, example: Example) -> EmbeddedExample:
    rainy, clean, derained = example.rainy, example.clean, example.layers[-1].image
    strip = [embed("rainy O", rainy, side=_CELL)]
    if clean is not None:
        strip.append(embed("ground truth", clean, side=_CELL))
    for layers in example.layers:
        strip.append(embed(f"{layers.stage}: B", layers.image, side=_CELL))
        strip.append(embed_rain(f"{layers.stage}: R", layers.rain, side=_CELL))
        if layers.own_rain:  # elsewhere R is what B leaves of O, and this is nothing
            error = (rainy - layers.image - layers.rain).abs()
            strip.append(embed_rain("|O − B − R|", error, side=_CELL, note=f"mean {error.mean():.2g}"))
    before = embed("rainy", rainy, side=_SLIDER, note=_psnr(rainy, clean))
    after = embed("derained", derained, side=_SLIDER, note=_psnr(derained, clean))
    return EmbeddedExample(dataset, example.name, before, after, strip, "the middle of a larger image" * example.cut)


def _psnr(image: Tensor, clean: Tensor | None) -> str:
    if clean is None or image.shape != clean.shape:
        return ""
    return f"{psnr(to_uint8(image), to_uint8(clean)):.2f} dB"


def _figure(value: Any, digits: int) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else "–"


def _printable(value: Any) -> str:
    """Text of any value that is safe to print."""
    return "not finite" if isinstance(value, float) and not math.isfinite(value) else escape(str(value))
