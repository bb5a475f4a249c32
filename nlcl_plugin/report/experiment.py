"""What the folder of a training contains, also while it is running or after it was interrupted."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlcl_plugin.data.files import parse_record
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.network_file import experiment_options
from nlcl_plugin.training.json_log import STARTS, read_json_lines


@dataclass(frozen=True)
class Experiment:
    """What a training has written so far."""

    folder: Path
    options: dict[str, Any]
    losses: list[dict[str, Any]]  # entries of `losses.jsonl`, by rising iteration
    metrics: list[dict[str, Any]]  # of `metrics.jsonl`; the later one of two with the same dataset and iteration
    starts: list[dict[str, Any]]  # of `starts.jsonl`
    summary: dict[str, Any]  # `summary.json`, empty before the end
    written: datetime.datetime  # when something was last logged or saved

    @property
    def name(self) -> str:
        """The name of the training."""
        return str(self.options.get("name", self.folder.name))

    @property
    def total_iter(self) -> int | None:
        """Iterations that it should reach, if the options say so."""
        total = block(self.options, "train").get("total_iter")
        return int(total) if isinstance(total, int | float) else None

    @property
    def current_iter(self) -> int:
        """The last iteration at which something was logged, validated or saved."""
        logged = (entry["iter"] for entry in (*self.losses, *self.metrics))
        names = (path.stem.rpartition("_")[2] for path in (self.folder / "models").glob("net_*.pth"))
        return max((*logged, *(int(name) for name in names if name.isdecimal())), default=0)

    @property
    def finished(self) -> bool:
        """Whether it reached its end, where the latest weights are saved, and was not resumed to go further."""
        often = block(self.options, "logger").get("print_freq")
        near = not isinstance(often, int) or (self.total_iter or 0) - self.current_iter < often
        return near and any((self.folder / "models").glob("net_*_latest.pth"))


def read_experiment(path: str | os.PathLike[str]) -> Experiment:
    """Read the folder of a training, such as `experiments/NAME`; an InputError if it is none, or a log is broken."""
    folder, options = experiment_options(path)
    if not (folder / "losses.jsonl").is_file():
        raise InputError(f"{folder}: has no losses.jsonl, so no training began here; give a folder below experiments/")
    summary = folder / "summary.json"
    metrics = {(entry["iter"], str(entry.get("dataset"))): entry for entry in read_json_lines(folder / "metrics.jsonl")}
    written = max(file.stat().st_mtime for file in (folder / "losses.jsonl", *folder.glob("models/*")))
    try:
        figures = parse_record(summary.read_bytes()) if summary.is_file() else {}
    except ValueError as error:
        raise InputError(f"{summary}: is not a JSON file of figures ({error}); move the file away") from error
    return Experiment(
        folder=folder,
        options=options,
        losses=read_json_lines(folder / "losses.jsonl"),
        metrics=list(metrics.values()),
        starts=read_json_lines(folder / STARTS),
        summary=figures,
        written=datetime.datetime.fromtimestamp(written, datetime.timezone.utc),
    )


def block(options: Any, *keys: str) -> dict[str, Any]:
    """A block of options within blocks; empty where there is none."""
    for key in keys:
        options = options.get(key) if isinstance(options, dict) else None
    return options if isinstance(options, dict) else {}
