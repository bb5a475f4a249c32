"""What the files of an output folder were made of: `derain.jsonl`, a line for each, written when it is done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nlcl_plugin.data.files import sha256
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.media.inputs import Job
from nlcl_plugin.version import __version__

NAME = "derain.jsonl"


class Record:
    """The record of an output folder.

    Args:
        folder: The output folder; it must exist.
        network: What derains now.
        asked: What is asked for beside the files: `save`, `metrics`, `reference`, as plain values.
    """

    _nothing: dict[str, Any] = {"save": [], "metrics": False, "reference": None}  # noqa: RUF012  never changed

    def __init__(self, folder: Path, network: ImageDerainer, asked: dict[str, Any]) -> None:
        self._folder = folder
        self._path = folder / NAME
        self._asked = asked
        self._made_by = {"weights_sha256": sha256(network.derainer.source), "amp": network.amp}
        self._about = {
            "weights": str(network.derainer.source),
            "network": network.derainer.about["network"],
            "nlcl_plugin": __version__,
        }
        self._entries: dict[str, dict[str, Any]] = {}
        if os.path.lexists(self._path) and (self._path.is_symlink() or not self._path.is_file()):
            raise InputError(f"{self._path}: is a link or no file, and would be written to; remove it")
        text = self._path.read_bytes().decode("utf-8", "replace") if self._path.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            entry = _entry(line)
            if entry:
                self._entries[entry["file"]] = entry

    def is_done(self, job: Job) -> bool:
        """Whether a job's output is there, of these weights and of its source as it is now, with all that is asked."""
        entry = self._entries.get(self.name(job))
        if (
            entry is None
            or not job.output.exists()
            or not self._is_ours(entry)
            or entry["source"] != _state(job.source)
        ):
            return False
        had = entry["asked"]
        return set(self._asked["save"]) <= set(had["save"]) and all(
            self._asked[key] in (had[key], None, False) for key in ("metrics", "reference")
        )

    def is_of_others(self, job: Job) -> bool:
        """Whether a job's output is there and was made with other weights or settings, or by something else."""
        entry = self._entries.get(self.name(job))
        return job.output.exists() and (entry is None or not self._is_ours(entry))

    def begin(self, job: Job) -> None:
        """Note that a job's output is about to be written, so that after a kill it is known to be ours."""
        self._add(job, [], self._nothing, {})

    def add(self, job: Job, measures: dict[str, float], *, whole: bool = True) -> None:
        """Note that a job is done; not `whole`: its output is, but not all that was asked for beside it."""
        self._add(job, _state(job.source), self._asked if whole else self._nothing, measures)

    def _add(self, job: Job, source: list[int], asked: dict[str, Any], measures: dict[str, float]) -> None:
        entry = {
            "file": self.name(job),
            "source": source,
            **self._made_by,
            "asked": asked,
            "measures": measures,
            **self._about,
        }
        self._entries[entry["file"]] = entry
        line = ("\n" if self._torn else "") + json.dumps(entry) + "\n"
        try:
            with open(self._path, "ab") as file:
                file.write(line.encode())
        except OSError as error:  # a full disk does not say of which file
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._torn = False

    def measures(self) -> dict[str, dict[str, float]]:
        """Figures of all files of these weights that have some, by name."""
        return {
            name: entry["measures"]
            for name, entry in sorted(self._entries.items())
            if entry["measures"] and self._is_ours(entry) and os.path.exists(self._folder / name)
        }

    def name(self, job: Job) -> str:
        """A job's name in the folder."""
        return os.path.relpath(job.output, self._folder)

    def _is_ours(self, entry: dict[str, Any]) -> bool:
        return all(entry[key] == value for key, value in self._made_by.items())


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _entry(line: str) -> dict[str, Any] | None:
    """An entry as `Record.add` wrote it; a line that is cut short or changed counts for nothing."""
    try:
        entry = json.loads(line)
        kinds = {"file": str, "source": list, "weights_sha256": str, "amp": bool, "asked": dict, "measures": dict}
        whole = all(isinstance(entry[key], kind) for key, kind in kinds.items()) and (
            not os.path.isabs(entry["file"])
            and os.pardir not in entry["file"].split("/")
            and {"save", "metrics", "reference"} <= set(entry["asked"])
            and isinstance(entry["asked"]["save"], list)
            and all(isinstance(kind, str) for kind in entry["asked"]["save"])
            and all(key.isascii() and key.isidentifier() for key in entry["measures"])
            and all(isinstance(value, int | float) and abs(value) < 1e300 for value in entry["measures"].values())
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry if whole else None
