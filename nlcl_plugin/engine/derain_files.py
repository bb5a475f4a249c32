"""Derain photographs and videos: each file by itself, so that a broken one stops no other."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nlcl_plugin import __version__
from nlcl_plugin.data.files import sha256, written_whole
from nlcl_plugin.data.image_io import to_float
from nlcl_plugin.data.inputs import Job
from nlcl_plugin.data.photograph import MAX_PIXELS, Photograph, read_photograph, write_photograph
from nlcl_plugin.data.video import open_video
from nlcl_plugin.data.video_writing import write_video
from nlcl_plugin.engine.derain import ImageDerainer, share
from nlcl_plugin.engine.derain_measures import measure, write_measures
from nlcl_plugin.engine.derain_pictures import save_pictures
from nlcl_plugin.errors import InputError, escape
from nlcl_plugin.models.any_size import parts

RECORD = "derain.json"
_LARGE = 4_000_000  # pixels of an image that gets a progress bar of its own


@dataclass(frozen=True)
class Wishes:
    """What is asked for beside the derained files.

    Attributes:
        output: The folder for all of it.
        save: Which pictures to save too: `rain`, `montage`, `heatmap`.
        measured: Whether to measure NIQE before and after.
        reference: Folder of ground truth, named as the inputs, for PSNR and SSIM.
        batch: Images or frames of one size that a GPU takes at once.
        jobs: Threads that read, and threads that write.
        overwrite: Make what is there again.
        max_pixels: Of an image; larger ones are refused.
        progress: False shows no bars, None shows them on a terminal.
    """

    output: Path
    save: tuple[str, ...] = ()
    measured: bool = False
    reference: Path | None = None
    batch: int = 1
    jobs: int = 2
    overwrite: bool = False
    max_pixels: int = MAX_PIXELS
    progress: bool | None = None


@dataclass
class Report:
    """What became of the files.

    Attributes:
        made: Derained in this run.
        there: That were there already.
        failed: Names and reasons.
        notes: What of a file could not be kept, a sentence each.
        measures: Figures of each file, by name.
    """

    made: int = 0
    there: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measures: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0, or 3 where a file failed."""
        return 3 if self.failed else 0


def derain_files(
    jobs: Iterable[Job], network: ImageDerainer, wishes: Wishes, say: Callable[[str], object] = print
) -> Report:
    """Derain files into a folder.

    An output that is there is kept, so that the same call goes on after an interruption; each is written whole.

    Args:
        jobs: What to read, and where each result goes.
        network: What derains.
        wishes: What else is asked for.
        say: Told of what takes long or goes to files.

    Returns:
        What became of them.

    Raises:
        InputError: If the folder holds results of other weights, or cannot be written.
    """
    jobs = list(jobs)
    _record(network, wishes)
    report = Report()
    waiting = [job for job in jobs if wishes.overwrite or not job.output.exists()]
    report.there = len(jobs) - len(waiting)
    hidden = None if wishes.progress is None else not wishes.progress
    with tqdm(total=len(waiting), unit="file", desc="derain", disable=hidden) as bar:
        images = [job for job in waiting if job.kind == "image"]
        for job, outcome in _images(images, network, wishes, say):
            _note(report, job, outcome, wishes)
            bar.update()
        for job in (job for job in waiting if job.kind == "video"):
            _note(report, job, _attempt(lambda job=job: _video(job, network, wishes)), wishes)  # type: ignore[misc]
            bar.update()
    if wishes.measured or wishes.reference:
        report.measures = write_measures(wishes.output, report.measures)
    return report


@dataclass
class _Outcome:
    notes: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


def _note(report: Report, job: Job, outcome: _Outcome, wishes: Wishes) -> None:
    name = os.path.relpath(job.output, wishes.output)
    report.notes += [f"{job.source}: {note}" for note in outcome.notes]
    if outcome.measures:
        report.measures[name] = outcome.measures
    if outcome.failure is None:
        report.made += 1
    else:
        report.failed.append((str(job.source), outcome.failure))


def _attempt(work: Callable[[], _Outcome]) -> _Outcome:
    """What would end the run becomes the outcome of one file."""
    try:
        return work()
    except InputError as error:
        return _Outcome(failure=str(error))
    except OSError as error:
        return _Outcome(failure=f"{error.strerror or error}: {error.filename or ''}")
    except MemoryError:
        return _Outcome(failure="needs more memory than there is; make it smaller")


def _record(network: ImageDerainer, wishes: Wishes) -> None:
    """Say in the folder what its files were made with, and refuse to mix."""
    made_with = {
        "weights": str(network.derainer.source),
        "weights_sha256": sha256(network.derainer.source),
        "amp": network.amp,
        "about": network.derainer.about,
        "nlcl_plugin": __version__,
    }
    path = wishes.output / RECORD
    if path.exists() and not wishes.overwrite:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            same = all(found[key] == made_with[key] for key in ("weights_sha256", "amp"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}: is not as this tool wrote it; remove it, or give another --output") from error
        if not same:
            raise InputError(
                f"{wishes.output}: its files were made with {found.get('weights')}, amp {found.get('amp')}; "
                "give another --output, or --overwrite"
            )
    try:
        wishes.output.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as file:
            file.write(json.dumps(made_with, indent=2).encode())
    except OSError as error:
        raise InputError(f"{wishes.output}: cannot be written ({error.strerror}); give another --output") from error


# images ---------------------------------------------------------------------------------------------------------------
def _images(
    jobs: list[Job], network: ImageDerainer, wishes: Wishes, say: Callable[[str], object]
) -> Iterator[tuple[Job, _Outcome]]:
    """Read, derain and write; reading and writing in threads beside the network."""
    readers, writers = ThreadPoolExecutor(wishes.jobs), ThreadPoolExecutor(wishes.jobs)
    writing: deque[tuple[Job, Future[_Outcome]]] = deque()
    try:
        for group in _groups(_read_ahead(jobs, readers, wishes), wishes.batch):
            ready = [(job, photograph) for job, photograph in group if isinstance(photograph, Photograph)]
            for job, outcome in group:
                if isinstance(outcome, _Outcome):
                    yield job, outcome
            for job, photograph, result in _derained(ready, network, wishes, say):
                if isinstance(result, _Outcome):
                    yield job, result
                    continue
                work = _writing(job, photograph, result, wishes)
                writing.append((job, writers.submit(_attempt, work)))
            while len(writing) > wishes.jobs:
                job, done = writing.popleft()
                yield job, done.result()
        for job, done in writing:
            yield job, done.result()
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown()  # what is being written is finished


def _read_ahead(
    jobs: list[Job], readers: ThreadPoolExecutor, wishes: Wishes
) -> Iterator[tuple[Job, Photograph | _Outcome]]:
    def read(job: Job) -> Photograph | _Outcome:
        found: list[Photograph] = []

        def work() -> _Outcome:
            found.append(read_photograph(job.source, max_pixels=wishes.max_pixels))
            return _Outcome()

        outcome = _attempt(work)
        return found[0] if found else outcome

    left = iter(jobs)
    ahead = deque((job, readers.submit(read, job)) for job in islice(left, wishes.jobs))
    while ahead:
        job, reading = ahead.popleft()
        yield job, reading.result()
        ahead.extend((job, readers.submit(read, job)) for job in islice(left, 1))


def _groups(read: Iterable[tuple[Job, Any]], batch: int) -> Iterator[list[tuple[Job, Any]]]:
    """Neighbours of one shape and type, up to `batch`; what could not be read stands alone."""
    group: list[tuple[Job, Any]] = []
    for job, found in read:
        like = [(one.rgb.shape, one.rgb.dtype) for _, one in group[:1]]
        if group and (
            isinstance(found, _Outcome) or len(group) == batch or like != [(found.rgb.shape, found.rgb.dtype)]
        ):
            yield group
            group = []
        if isinstance(found, _Outcome):
            yield [(job, found)]
        else:
            group.append((job, found))
    if group:
        yield group


def _derained(
    ready: list[tuple[Job, Photograph]], network: ImageDerainer, wishes: Wishes, say: Callable[[str], object]
) -> Iterator[tuple[Job, Photograph, np.ndarray | _Outcome]]:
    if len(ready) > 1:
        try:
            results = share([photograph.rgb for _, photograph in ready], network)
        except InputError:  # perhaps one at a time fits the memory
            for one in ready:
                yield from _derained([one], network, wishes, say)
            return
        for (job, photograph), result in zip(ready, results, strict=True):
            yield job, photograph, result
        return
    for job, photograph in ready:
        found: list[np.ndarray] = []

        def work(photograph: Photograph = photograph, found: list[np.ndarray] = found) -> _Outcome:
            found.append(_with_bar(photograph.rgb, network, wishes, say))
            return _Outcome()

        outcome = _attempt(work)
        yield job, photograph, found[0] if found else outcome


def _with_bar(rgb: np.ndarray, network: ImageDerainer, wishes: Wishes, say: Callable[[str], object]) -> np.ndarray:
    size = f"{rgb.shape[1]}×{rgb.shape[0]}"
    image = torch.empty(1, 3, *rgb.shape[:2], device="meta")
    total = parts(network.derainer.net, image, network.derainer.window_size)
    hidden = True if rgb.shape[0] * rgb.shape[1] < _LARGE or wishes.progress is False else None
    with tqdm(total=total, desc=size, unit="part", leave=False, disable=hidden) as bar:
        return network.array(rgb, say=lambda text: say(f"{size}: {text}"), tell=bar.update, scratch=wishes.output)


def _writing(job: Job, photograph: Photograph, result: np.ndarray, wishes: Wishes) -> Callable[[], _Outcome]:
    def work() -> _Outcome:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        name = Path(os.path.relpath(job.output, wishes.output))
        save_pictures(wishes.save, wishes.output, name, photograph.rgb, result)
        measures = measure(name, photograph.rgb, result, wishes.measured, wishes.reference, wishes.max_pixels)
        write_photograph(job.output, result, photograph)  # last: what is there under its name is done
        return _Outcome(notes=list(photograph.notes), measures=measures)

    return work


# videos ---------------------------------------------------------------------------------------------------------------
def _video(job: Job, network: ImageDerainer, wishes: Wishes) -> _Outcome:
    job.output.parent.mkdir(parents=True, exist_ok=True)
    rain: list[float] = []
    with open_video(job.source, max_pixels=wishes.max_pixels) as video:
        hidden = None if wishes.progress is None else not wishes.progress
        bar = tqdm(total=video.frames, desc=escape(job.source.name), unit="frame", leave=False, disable=hidden)
        with bar, write_video(job.output, video) as writer:
            frames = iter(video)
            while batch := list(islice(frames, wishes.batch)):
                rainy = [frame.rgb for frame in batch]
                results = share(rainy, network) if len(batch) > 1 else [network.array(rainy[0])]
                for frame, result in zip(batch, results, strict=True):
                    rain.append(float(np.mean(to_float(frame.rgb) - to_float(result))))
                    writer.write(result, frame)
                    bar.update()
        notes = list(video.notes)
    if wishes.save:
        notes.append("pictures of rain are saved for photographs only")
    measured = wishes.measured or wishes.reference is not None
    return _Outcome(notes=notes, measures={"frames": len(rain), "mean_rain": float(np.mean(rain))} if measured else {})
