"""Derain photographs and videos: each file by itself, so that a broken one stops no other."""

from __future__ import annotations

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

from nlcl_plugin.data.image_io import to_float
from nlcl_plugin.errors import InputError, escape
from nlcl_plugin.inference.any_size import parts
from nlcl_plugin.inference.derain import ImageDerainer, derain_batch
from nlcl_plugin.inference.derain_pictures import save_pictures
from nlcl_plugin.inference.derain_record import Record
from nlcl_plugin.inference.measures import measure, write_measures
from nlcl_plugin.media.inputs import Job
from nlcl_plugin.media.photograph import MAX_PIXELS, Photograph, read_photograph, write_photograph
from nlcl_plugin.media.video import open_video
from nlcl_plugin.media.video_writing import write_video

_LARGE = 4_000_000  # pixels of an image that gets a progress bar of its own, and is taken alone


@dataclass(frozen=True)
class DerainOptions:
    """What is asked for beside the derained files.

    Attributes:
        output: The folder for all of it.
        save: Which pictures to save too: `rain`, `montage`, `heatmap`.
        measured: Whether to measure NIQE before and after.
        reference: Folder of ground truth, named as the inputs, for PSNR and SSIM.
        batch: Images or frames of one size that a GPU takes at once.
        jobs: Threads that read, and threads that write.
        overwrite: Replace what other weights, settings or programs made.
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

    @property
    def asked(self) -> dict[str, Any]:
        """What is made beside the files, as plain values."""
        reference = None if self.reference is None else str(self.reference.resolve())
        return {"save": sorted(self.save), "metrics": self.measured, "reference": reference}


@dataclass
class DerainReport:
    """What became of the files.

    Attributes:
        made: Derained in this run.
        there: That were there already.
        failed: Names and reasons.
        notes: What of a file could not be kept, a sentence each.
        measured: Files that have figures.
    """

    made: int = 0
    there: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured: int = 0

    @property
    def exit_code(self) -> int:
        """0, or 3 where a file failed."""
        return 3 if self.failed else 0


def derain_files(
    jobs: Iterable[Job], network: ImageDerainer, options: DerainOptions, say: Callable[[str], object] = print
) -> DerainReport:
    """Derain files into a folder.

    What is there of the same weights and the same input is kept, so that the same call goes on after an interruption;
    each file is written whole.

    Args:
        jobs: What to read, and where each result goes.
        network: What derains.
        options: What to write beside the images, and how.
        say: Told of what takes long or goes to files.

    Returns:
        What became of them.

    Raises:
        InputError: If something else made what is there, there is no folder of ground truth, or the output cannot be
            written.
    """
    jobs = list(jobs)
    if options.reference is not None and not options.reference.is_dir():
        raise InputError(f"--reference: there is no folder {options.reference}; give that of the ground truth")
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        record = Record(options.output, network, options.asked)
    except OSError as error:
        raise InputError(f"{options.output}: cannot be written ({error.strerror}); give another --output") from error
    waiting = [job for job in jobs if not record.is_done(job)]
    others = [job for job in waiting if record.is_of_others(job)]
    if others and not options.overwrite:
        raise InputError(
            f"{others[0].output}: is there (in all {len(others)} such), but not of these weights and settings; give "
            "another --output, or --overwrite"
        )
    report = DerainReport(there=len(jobs) - len(waiting))
    hidden = None if options.progress is None else not options.progress
    try:
        with tqdm(total=len(waiting), unit="file", desc="derain", disable=hidden) as bar:
            images = [job for job in waiting if job.kind == "image"]

            def note(job: Job, outcome: _Outcome) -> None:
                _note(report, record, job, outcome)
                bar.update()

            _images(images, network, options, record, say, note)
            for job in (job for job in waiting if job.kind == "video"):
                record.begin(job)
                note(job, _attempt(lambda job=job: _video(job, network, options, say)))  # type: ignore[misc]
    finally:
        if options.measured or options.reference:
            measures = record.measures()
            write_measures(options.output, measures)
            report.measured = len(measures)
    return report


@dataclass
class _Outcome:
    notes: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    written: bool = False


def _note(report: DerainReport, record: Record, job: Job, outcome: _Outcome) -> None:
    report.notes += [f"{job.source}: {note}" for note in outcome.notes]
    if outcome.written:
        record.add(job, outcome.measures, whole=outcome.failure is None)
    report.made += outcome.written
    if outcome.failure is not None:
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
    except Exception as error:  # a fault of ours, which must not cost the other files
        return _Outcome(failure=f"{type(error).__name__}: {' '.join(str(error).split())}; please report this")


# images ---------------------------------------------------------------------------------------------------------------
def _images(
    jobs: list[Job],
    network: ImageDerainer,
    options: DerainOptions,
    record: Record,
    say: Callable[[str], object],
    note: Callable[[Job, _Outcome], None],
) -> None:
    """Read, derain and write, and note what became of each; reading and writing in threads beside the network."""
    readers, writers = ThreadPoolExecutor(options.jobs), ThreadPoolExecutor(options.jobs)
    writing: deque[tuple[Job, Future[_Outcome]]] = deque()
    try:
        for group in _groups(_read_ahead(jobs, readers, options), options.batch):
            ready = [(job, found) for job, found in group if isinstance(found, Photograph)]
            for job, outcome in group:
                if isinstance(outcome, _Outcome):
                    note(job, outcome)
            for job, photograph, result in _derained(ready, network, options, say):
                if isinstance(result, _Outcome):
                    note(job, result)
                    continue
                work = _writing(job, photograph, result, options)
                record.begin(job)
                writing.append((job, writers.submit(_attempt, work)))
            while len(writing) > options.jobs:
                outcome = writing[0][1].result()  # an interruption while it is waited for leaves it in the queue
                note(writing.popleft()[0], outcome)
    finally:
        readers.shutdown(cancel_futures=True)
        writers.shutdown()  # what is being written is finished, and after an interruption known to be done
        for job, done in writing:
            note(job, done.result())


def _read_ahead(
    jobs: list[Job], readers: ThreadPoolExecutor, options: DerainOptions
) -> Iterator[tuple[Job, Photograph | _Outcome]]:
    def read(job: Job) -> Photograph | _Outcome:
        found: list[Photograph] = []

        def work() -> _Outcome:
            found.append(read_photograph(job.source, max_pixels=options.max_pixels))
            return _Outcome()

        outcome = _attempt(work)
        return found[0] if found else outcome

    left = iter(jobs)
    ahead = deque((job, readers.submit(read, job)) for job in islice(left, options.jobs))
    while ahead:
        job, reading = ahead.popleft()
        yield job, reading.result()
        ahead.extend((job, readers.submit(read, job)) for job in islice(left, 1))


def _groups(read: Iterable[tuple[Job, Any]], batch: int) -> Iterator[list[tuple[Job, Any]]]:
    """Neighbours of one shape and type, up to `batch`; large ones and what could not be read stand alone."""
    group: list[tuple[Job, Any]] = []
    for job, found in read:
        alone = isinstance(found, _Outcome) or found.rgb.shape[0] * found.rgb.shape[1] > _LARGE
        if group and (alone or _kind(found) != _kind(group[0][1])):
            yield group
            group = []
        group.append((job, found))
        if alone or len(group) == batch:  # now, not with the next one: nothing waits in memory for it
            yield group
            group = []
    if group:
        yield group


def _kind(photograph: Photograph) -> tuple[tuple[int, ...], np.dtype]:
    return photograph.rgb.shape, photograph.rgb.dtype


def _derained(
    ready: list[tuple[Job, Photograph]], network: ImageDerainer, options: DerainOptions, say: Callable[[str], object]
) -> Iterator[tuple[Job, Photograph, np.ndarray | _Outcome]]:
    def alone(rgb: np.ndarray) -> np.ndarray:
        return _with_bar(rgb, network, options, say)

    for (job, photograph), result in zip(ready, _shared([one.rgb for _, one in ready], network, alone), strict=True):
        yield job, photograph, result


def _shared(
    images: list[np.ndarray], network: ImageDerainer, alone: Callable[[np.ndarray], np.ndarray]
) -> Iterator[np.ndarray | _Outcome]:
    """Derain images of one shape at once or, if that takes too much memory, one by one."""
    if len(images) > 1:
        try:
            yield from derain_batch(images, network)
            return
        except (InputError, MemoryError):
            pass
    for image in images:
        found: list[np.ndarray] = []

        def work(image: np.ndarray = image, found: list[np.ndarray] = found) -> _Outcome:
            found.append(alone(image))
            return _Outcome()

        outcome = _attempt(work)
        yield found[0] if found else outcome


def _with_bar(
    rgb: np.ndarray, network: ImageDerainer, options: DerainOptions, say: Callable[[str], object]
) -> np.ndarray:
    size = f"{rgb.shape[1]}×{rgb.shape[0]}"
    image = torch.empty(1, 3, *rgb.shape[:2], device="meta")
    total = parts(network.derainer.net, image, network.derainer.window_size)
    hidden = True if rgb.shape[0] * rgb.shape[1] < _LARGE or options.progress is False else None
    with tqdm(total=total, desc=size, unit="part", leave=False, disable=hidden) as bar:
        return network.array(rgb, say=lambda text: say(f"{size}: {text}"), tell=bar.update, scratch=options.output)


def _writing(job: Job, photograph: Photograph, result: np.ndarray, options: DerainOptions) -> Callable[[], _Outcome]:
    def work() -> _Outcome:
        job.output.parent.mkdir(parents=True, exist_ok=True)
        name = job.output.relative_to(options.output)
        derained = _as_grey(result) if photograph.grey else result
        write_photograph(job.output, derained, photograph)
        outcome = _attempt(lambda: _beside(name, photograph.rgb, derained, options))
        outcome.notes = list(photograph.notes)
        outcome.written = True
        return outcome

    return work


def _beside(name: Path, rainy: np.ndarray, derained: np.ndarray, options: DerainOptions) -> _Outcome:
    save_pictures(options.save, options.output, name, rainy, derained)
    return _Outcome(measures=measure(name, rainy, derained, options.measured, options.reference, options.max_pixels))


def _as_grey(rgb: np.ndarray) -> np.ndarray:
    """The mean of the channels in all three, as a grey file is written."""
    mean = rgb.mean(axis=2, keepdims=True, dtype=np.float64)
    mean = np.rint(mean) if np.issubdtype(rgb.dtype, np.integer) else mean
    return mean.astype(rgb.dtype).repeat(3, axis=2)


# videos ---------------------------------------------------------------------------------------------------------------
def _video(job: Job, network: ImageDerainer, options: DerainOptions, say: Callable[[str], object]) -> _Outcome:
    job.output.parent.mkdir(parents=True, exist_ok=True)
    rain: list[float] = []
    with open_video(job.source, max_pixels=options.max_pixels) as video:
        hidden = None if options.progress is None else not options.progress
        bar = tqdm(total=video.frames, desc=escape(job.source.name), unit="frame", leave=False, disable=hidden)
        batch = options.batch if video.height * video.width <= _LARGE else 1

        def alone(rgb: np.ndarray) -> np.ndarray:
            return network.array(rgb, scratch=options.output, say=say if not rain else lambda text: None)

        with bar, write_video(job.output, video) as writer:
            frames = iter(video)
            while some := list(islice(frames, batch)):
                for frame, result in zip(some, _shared([one.rgb for one in some], network, alone), strict=True):
                    if isinstance(result, _Outcome):
                        raise InputError(f"frame {len(rain)}: {result.failure}")
                    rain.append(float(np.mean(to_float(frame.rgb) - to_float(result))))
                    writer.write(result, frame)
                    bar.update()
        notes = list(video.notes)
    if options.save:
        notes.append("pictures of rain are saved for photographs only")
    if options.reference is not None:
        notes.append("it is not compared with ground truth; photographs are")
    measured = options.measured or options.reference is not None
    measures: dict[str, float] = {"frames": len(rain), "mean_rain": float(np.mean(rain))} if measured else {}
    return _Outcome(notes=notes, measures=measures, written=True)
