"""Derain photographs and videos: each file by itself, so that a broken one stops no other."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from nlcl_plugin.data.files import inner_name, sha256
from nlcl_plugin.data.image_io import to_float, to_uint8, write_image
from nlcl_plugin.data.progress import ProgressBar
from nlcl_plugin.errors import InputError, counted, escape, writing_to
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import PLAIN
from nlcl_plugin.inference.measures import find_truth, measure, write_measures
from nlcl_plugin.media.inputs import Job
from nlcl_plugin.media.photograph import MAX_PIXELS, Photograph, read_photograph, write_photograph
from nlcl_plugin.media.photograph.writing import mean_channel
from nlcl_plugin.media.video import open_video
from nlcl_plugin.media.video_writing import write_video
from nlcl_plugin.pictures import Cell, grid, heat_map
from nlcl_plugin.version import __version__

PICTURES = ("rain", "montage", "heatmap")
RECORD_FILE = "derain.jsonl"
_MONTAGE_TITLES = ("rainy", "derained", "rain layer R", "R as a heat map")
_MONTAGE_CELL = 800  # pixels: the largest width of each of its pictures
_LARGE = 4_000_000  # pixels of an image that is never part of a batch
_NOTHING: dict[str, Any] = {"save": [], "metrics": False, "reference": None}
_ENTRIES = {"file": str, "source": list, "weights_sha256": str, "amp": bool, "asked": dict, "measures": dict}

_T = TypeVar("_T")


@dataclass(frozen=True)
class DerainOptions:
    """What is asked for beside the derained files."""

    output: Path  # the folder for all of it
    save: tuple[str, ...] = ()  # which of `PICTURES` to save too
    measured: bool = False  # whether to measure NIQE before and after
    reference: Path | None = None  # folder of ground truth, named as the inputs, for PSNR and SSIM
    batch: int = 1  # images or frames of one size that a GPU takes at once
    jobs: int = 4  # threads that read and write images, while the network runs on one batch
    overwrite: bool = False  # replace what other weights, settings or programs made
    max_pixels: int = MAX_PIXELS  # of an image; larger ones are refused


@dataclass
class DerainReport:
    """What became of the files."""

    made: int = 0  # derained in this run
    there: int = 0  # files that had been derained before
    failed: list[tuple[str, str]] = field(default_factory=list)  # names and reasons
    notes: list[str] = field(default_factory=list)  # what of a file could not be kept, a sentence each
    measured: int = 0  # files that have figures

    @property
    def exit_code(self) -> int:
        """0, or 3 where a file failed."""
        return 3 if self.failed else 0


def derain_files(jobs: Iterable[Job], network: ImageDerainer, options: DerainOptions) -> DerainReport:
    """Derain files into a folder.

    Files already derained with the same weights from the same input are skipped, so that the same call continues after
    an interruption; each file is written whole.

    Raises:
        InputError: If something else made the files of the output, there is no folder of ground truth, or the output
            cannot be written.
    """
    jobs = list(jobs)
    if options.reference is not None and not options.reference.is_dir():
        raise InputError(f"--reference: there is no folder {options.reference}; give that of the ground truth")
    with writing_to(options.output, advice="give another --output"):
        options.output.mkdir(parents=True, exist_ok=True)
        record = _Record(network, options)
    waiting = [job for job in jobs if not record.is_done(job)]
    others = [job for job in waiting if record.is_of_others(job)]
    if others and not options.overwrite:
        raise InputError(
            f"{others[0].output}: already exists, made with other weights or settings ({counted(len(others), 'file')})"
            "; give another --output, or --overwrite"
        )
    report = DerainReport(there=len(jobs) - len(waiting))
    run = _Run(network, options, record)
    try:
        with ProgressBar(total=len(waiting), unit="file", desc="derain") as bar:
            for job, outcome in run.outcomes(waiting):
                bar.update()
                if isinstance(outcome, _Made):
                    report.made += 1
                    report.notes += [f"{job.source}: {note}" for note in outcome.notes]
                failure = outcome.measures if isinstance(outcome, _Made) else outcome
                if isinstance(failure, _Failure):
                    report.failed.append((str(job.source), failure.reason))
    finally:
        if options.measured or options.reference:
            measures = record.measures()
            write_measures(options.output, measures)
            report.measured = len(measures)
    return report


class _Failure(NamedTuple):
    reason: str


class _Made(NamedTuple):
    """A file that is written: what could not be kept, and its figures or why what was asked beside it failed."""

    notes: list[str]
    measures: dict[str, float] | _Failure


def _written(job: Job, outcome: Future[_Made | _Failure] | _Failure) -> tuple[Job, _Made | _Failure]:
    return job, outcome if isinstance(outcome, _Failure) else outcome.result()


def _attempt(work: Callable[..., _T], *args: Any, **kwargs: Any) -> _T | _Failure:
    """What would end the run becomes the failure of one file."""
    try:
        return work(*args, **kwargs)
    except InputError as error:
        return _Failure(str(error))
    except OSError as error:
        return _Failure(f"{error.strerror or error}: {error.filename or ''}")
    except MemoryError:
        return _Failure("needs more memory than there is; make it smaller")
    except Exception as error:  # a fault of ours, which must not cost the other files
        return _Failure(f"{type(error).__name__}: {' '.join(str(error).split())}; please report this")


class _Record:
    """`derain.jsonl`: what the files of the output folder were made of, a line per file, written when it is done."""

    def __init__(self, network: ImageDerainer, options: DerainOptions) -> None:
        self._folder, self._path = options.output, options.output / RECORD_FILE
        self._reference = options.reference
        source, about = network.derainer.source, network.derainer.about
        reference = None if options.reference is None else str(options.reference.resolve())
        self._asked: dict[str, Any] = {
            "save": sorted(options.save),
            "metrics": options.measured,
            "reference": reference,
        }
        self._made_by = {"weights_sha256": sha256(source), "amp": network.amp}
        for key, plain in PLAIN.items():
            if getattr(network.derainer, key) != about.get(key, plain):  # not what the weights say
                self._made_by[key] = getattr(network.derainer, key)
        self._about = {"weights": str(source), "network": about["network"], "nlcl_plugin": __version__}
        text = self._path.read_bytes().decode("utf-8", "replace") if self._path.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        self._entries = {entry["file"]: entry for line in text.splitlines() if (entry := _entry(line))}

    def is_done(self, job: Job) -> bool:
        """Whether a job's output exists, of these weights and of its source as it is now, with all that is asked."""
        entry = self._entries.get(self._name(job))
        if entry is None or self.is_of_others(job) or not job.output.exists() or entry["source"] != _state(job.source):
            return False
        made = {**_NOTHING, **entry["asked"]}
        if not (set(self._asked["save"]) <= set(made["save"]) and self._asked["metrics"] in (made["metrics"], False)):
            return False
        return self._asked["reference"] in (made["reference"], None) or self.truth_of(job) is None

    def truth_of(self, job: Job) -> Path | None:
        """The ground truth of a photograph, if it is asked for and there is one."""
        if self._reference is None or job.kind != "image":
            return None
        return find_truth(self._reference, job.output.relative_to(self._folder))

    def is_of_others(self, job: Job) -> bool:
        """Whether a job's output exists and was made with other weights or settings, or by something else."""
        return job.output.exists() and not self._is_ours(self._entries.get(self._name(job), {}))

    def begin(self, job: Job) -> None:
        """Note that a job's output is about to be written, so that after a kill it is known to be ours."""
        self.add(job, _Failure(""), [])

    def add(self, job: Job, measures: dict[str, float] | _Failure, source: list[int]) -> None:
        """Note that a job is done; a failure: its output is, but not all that was asked for beside it."""
        asked, measures = (_NOTHING, {}) if isinstance(measures, _Failure) else (self._asked, measures)
        if "psnr" not in measures:  # without a ground truth, which may be added later
            asked = {**asked, "reference": None}
        entry = {"file": self._name(job), "source": source, **self._made_by, "asked": asked, "measures": measures}
        self._entries[entry["file"]] = entry
        line = ("\n" if self._torn else "") + json.dumps({**entry, **self._about}) + "\n"
        self._torn = False
        try:
            with open(self._path, "ab") as file:
                file.write(line.encode())
        except OSError as error:  # a full disk does not say of which file
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def measures(self) -> dict[str, dict[str, float]]:
        """Figures by name, of all files of these weights that have some."""
        return {
            name: entry["measures"]
            for name, entry in sorted(self._entries.items())
            if entry["measures"] and self._is_ours(entry) and os.path.exists(self._folder / name)
        }

    def _name(self, job: Job) -> str:
        return os.path.relpath(job.output, self._folder)

    def _is_ours(self, entry: dict[str, Any]) -> bool:
        return all(entry.get(key) == self._made_by.get(key) for key in {*self._made_by, *PLAIN})


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _entry(line: str) -> dict[str, Any] | None:
    """An entry of a record; a line that is cut short or of others is ignored."""
    try:
        entry = json.loads(line)
        return entry if all(isinstance(entry[key], kind) for key, kind in _ENTRIES.items()) else None
    except (ValueError, KeyError, TypeError):
        return None


@dataclass(frozen=True)
class _Run:
    network: ImageDerainer
    options: DerainOptions
    record: _Record

    def outcomes(self, jobs: list[Job]) -> Iterator[tuple[Job, _Made | _Failure]]:
        """Derain images, which threads read and write, then videos.

        The network stays in this thread: two threads that have used it and end at once can wait for each other for ever
        (in MKL, which frees their memory then).
        """
        images = [job for job in jobs if job.kind == "image"]
        batches = [images[start : start + self.options.batch] for start in range(0, len(images), self.options.batch)]
        ahead = self.options.jobs
        pool = ThreadPoolExecutor(ahead)
        reading = deque(pool.submit(self._read, batch) for batch in batches[:ahead])
        writing: deque[tuple[Job, Future[_Made | _Failure] | _Failure]] = deque()
        try:
            for later in (*batches[ahead:], *[None] * min(ahead, len(batches))):
                writing.extend(self._derained_batch(reading.popleft().result(), pool))
                if later is not None:
                    reading.append(pool.submit(self._read, later))
                while len(writing) > ahead * self.options.batch:
                    yield _written(*writing.popleft())
            while writing:
                yield _written(*writing.popleft())
        finally:  # what the network has done is written and recorded, also after an interruption
            for waiting in reading:
                waiting.cancel()
            pool.shutdown()
        for job in (job for job in jobs if job.kind == "video"):
            yield job, self._recorded(job, self._video)

    def _recorded(self, job: Job, work: Callable[..., _Made], *args: Any) -> _Made | _Failure:
        self.record.begin(job)
        outcome = _attempt(work, job, *args)
        if isinstance(outcome, _Made):
            self.record.add(job, outcome.measures, _state(job.source))
        return outcome

    def _read(self, jobs: list[Job]) -> list[tuple[Job, Photograph | _Failure]]:
        return [(job, _attempt(read_photograph, job.source, max_pixels=self.options.max_pixels)) for job in jobs]

    def _derained_batch(
        self, read: list[tuple[Job, Photograph | _Failure]], pool: ThreadPoolExecutor
    ) -> Iterator[tuple[Job, Future[_Made | _Failure] | _Failure]]:
        """Derain what was read, and have it written by the pool."""
        yield from ((job, one) for job, one in read if isinstance(one, _Failure))
        found = [(job, one) for job, one in read if isinstance(one, Photograph)]
        for _, alike in groupby(found, lambda item: (item[1].rgb.shape, item[1].rgb.dtype)):
            group = list(alike)
            results = list(self._derained([photograph.rgb for _, photograph in group]))
            for (job, photograph), made in zip(group, results, strict=True):
                if isinstance(made, _Failure):
                    yield job, made
                else:
                    yield job, pool.submit(self._recorded, job, self._write, photograph, made)

    def _derained(self, images: list[np.ndarray]) -> Iterator[np.ndarray | _Failure]:
        """Derain images of one shape at once or, if they are large or that takes too much memory, one by one."""
        if len(images) > 1 and images[0].shape[0] * images[0].shape[1] <= _LARGE:
            try:
                yield from self.network.arrays(images)
                return
            except (InputError, MemoryError):
                pass
        for image in images:
            yield _attempt(self.network.array, image)

    def _write(self, job: Job, photograph: Photograph, result: np.ndarray) -> _Made:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        derained = mean_channel(result).repeat(3, axis=2) if photograph.grey else result
        write_photograph(job.output, derained, photograph)
        notes, truth = list(photograph.notes), self.record.truth_of(job)
        if self.options.reference is not None and truth is None:
            notes.append(f"derained, but {self.options.reference} has no ground truth of its name")
        return _Made(notes, _attempt(self._beside, job, photograph.rgb, derained, truth))

    def _beside(self, job: Job, rainy: np.ndarray, derained: np.ndarray, truth: Path | None) -> dict[str, float]:
        """Save the pictures that are asked for, and measure."""
        options, name = self.options, job.output.relative_to(self.options.output)
        for kind in options.save:
            rain = np.clip(to_float(rainy) - to_float(derained), 0, 1)
            picture = rain if kind == "rain" else heat_map(rain)
            if kind == "montage":
                cells = [Cell(to_uint8(to_float(image))) for image in (rainy, derained, rain, picture)]
                picture = grid([cells], min(rainy.shape[1], _MONTAGE_CELL), titles=_MONTAGE_TITLES)
            # The ending of the file stays in the name: a.jpg and a.png are two.
            write_image(options.output / f"_{kind}" / f"{inner_name(str(name))}.png", picture)
        return measure(rainy, derained, options.measured, truth, options.max_pixels)

    def _video(self, job: Job) -> _Made:
        """Derain a video frame by frame."""
        options = self.options
        job.output.parent.mkdir(parents=True, exist_ok=True)
        rain: list[float] = []
        with open_video(job.source, max_pixels=options.max_pixels) as video:
            bar = ProgressBar(total=video.frames, desc=escape(job.source.name), unit="frame", leave=False)
            with bar, write_video(job.output, video) as writer:
                frames = iter(video)
                while batch := list(islice(frames, options.batch)):
                    for frame, result in zip(batch, self._derained([one.rgb for one in batch]), strict=True):
                        if isinstance(result, _Failure):
                            raise InputError(f"frame {len(rain)}: {result.reason}")
                        rain.append(float(np.mean(to_float(frame.rgb) - to_float(result))))
                        writer.write(result, frame)
                        bar.update()
            notes = list(video.notes)
        if options.save:
            notes.append("pictures of rain are saved for photographs only")
        if options.reference is not None:
            notes.append("it is not compared with ground truth; photographs are")
        measured = options.measured or options.reference is not None
        return _Made(notes, {"frames": len(rain), "mean_rain": float(np.mean(rain))} if measured else {})
