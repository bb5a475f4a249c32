"""Run the trainings of a study: several at a time, each in a process and a folder of its own, each only once."""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from studies.plan import Training
from tqdm import tqdm

from nlcl_plugin.config.option_files import write_options
from nlcl_plugin.data.files import parse_record, write_whole
from nlcl_plugin.errors import InputError
from nlcl_plugin.version import __version__

RESULT = "result.json"
STOPPED = 4  # exit code of a training that stopped itself: a result, if not the one hoped for


def run_all(found: list[Training], folder: Path, jobs: int) -> list[str]:
    """Run the trainings that have no result yet.

    A training that was interrupted goes on from its last checkpoint; one with other options than before starts anew.

    Args:
        found: The trainings.
        folder: The study's folder.
        jobs: How many to run at a time; processor cores are divided among them, GPUs dealt out in turn.

    Returns:
        One line for each training that failed.

    Raises:
        KeyboardInterrupt: After the running trainings were told to save their state.
    """
    open_ones = [training for training in found if result_of(training, folder) is None]
    slots: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
    for slot in range(jobs):
        slots.put(_environment(slot, jobs))
    running: dict[str, subprocess.Popen[bytes]] = {}
    stopping = threading.Event()
    failures = []

    def run(training: Training) -> str | None:
        environment = slots.get()
        try:
            return None if stopping.is_set() else _run_one(training, folder, environment, running)
        finally:
            slots.put(environment)

    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(found), initial=len(found) - len(open_ones), unit="training", smoothing=0) as bar,
    ):
        try:
            for future in as_completed([pool.submit(run, training) for training in open_ones]):
                failure = future.result()
                if failure:
                    failures.append(failure)
                    bar.write(failure, file=sys.stderr)
                bar.update()
        except BaseException:
            stopping.set()
            for process in list(running.values()):
                process.send_signal(signal.SIGTERM)  # they save their state
            raise
    return failures


def result_of(training: Training, folder: Path) -> dict[str, Any] | None:
    """The result of a training if it was run with just these options, else None."""
    file = folder / training.place / RESULT
    result = _read(file)
    return result if result is not None and result["digest"] == training.digest else None


def _read(file: Path) -> dict[str, Any] | None:
    """A record of a training, None if there is none."""
    if not file.is_file():
        return None
    try:
        record = parse_record(file.read_bytes())
        return {**record, "digest": str(record["digest"]), "minutes": float(record["minutes"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: is damaged ({error}); restore it, or remove its folder to run this training again"
        ) from error


def _run_one(
    training: Training, folder: Path, environment: dict[str, str], running: dict[str, "subprocess.Popen[bytes]"]
) -> str | None:
    place = folder / training.place
    begun = place / "begun.json"
    known = _read(begun)
    if place.exists() and (known is None or known["digest"] != training.digest):
        shutil.rmtree(place)  # ours, with other options
        known = None
    place.mkdir(parents=True, exist_ok=True)
    write_options(str(place / "options.yml"), training.options)
    before = known["minutes"] if known else 0.0
    _write(begun, {"digest": training.digest, "minutes": before})
    does = ["train", "-opt", "options.yml", "--auto_resume"] if training.trains else ["test", "-opt", "options.yml"]
    command = [sys.executable, "-m", "nlcl_plugin", *does]
    start = time.monotonic()
    with open(place / "log.txt", "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C then reaches it once, from us: a second signal would not save its state
        )
        running[training.place] = process
        code = process.wait()
        del running[training.place]
    minutes = before + (time.monotonic() - start) / 60
    _write(begun, {"digest": training.digest, "minutes": minutes})  # for when it goes on after an interruption
    if code not in (0, STOPPED):
        tail = (place / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"{training.place}: exit code {code}: {' '.join(tail)} (see {place / 'log.txt'})"
    summary = None
    if code == 0:
        summary = json.loads((place / training.output / "summary.json").read_text())
    result = {
        "digest": training.digest,
        "outcome": "done" if code == 0 else "stopped",
        "figures": summary["datasets"] if summary else {},
        "photographs": summary["photographs"] if summary else {},
        "minutes": minutes,
        "version": __version__,
        "torch": torch.__version__,
    }
    _write(place / RESULT, result)
    return None


def _write(path: Path, content: dict[str, Any]) -> None:
    write_whole(path, json.dumps(content, indent=2).encode())


def _environment(slot: int, jobs: int) -> dict[str, str]:
    environment = dict(os.environ)
    environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
    if torch.cuda.device_count() > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
        environment["CUDA_VISIBLE_DEVICES"] = str(slot % torch.cuda.device_count())
    return environment
