"""Parts run one after the other: here, or on a GPU each in a process of its own, which may hang or break the driver."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from gpu.report import rows_of_file
from gpu.rows import FAIL, NOT_RUN, Setting, attempt, row

TOOL = Path(__file__).resolve().parents[1] / "gpu_check.py"
GRACE = 30  # seconds that a part may take longer than it should, until it is taken for hanging


def rows_here(part, setting):
    """Yield the rows of a part; one that raises ends with a failed row that has the error and its line."""
    rows = _rows(part, setting)
    while found := attempt("the part itself", next, rows, None):
        yield {"part": part, **found}


def _rows(part, setting):
    yield from importlib.import_module(f"gpu.{part}").measure(setting)  # a fault of an import is one of the part


def rows_apart(part, setting, grace=GRACE):
    """The same from a process of its own, killed with what it started if it does not end; its rows until then count."""
    file, log = (setting.folder / f"{part}.{ending}" for ending in ("jsonl", "log"))
    given = json.dumps({**asdict(setting), "folder": str(setting.folder), "part": part, "rows": str(file)})
    with log.open("wb") as errors:
        job = subprocess.Popen([sys.executable, str(TOOL), "--child", given], stderr=errors, start_new_session=True)
        try:
            code = job.wait(max(setting.deadline - time.time(), 0) + grace)
            fault = f"the process ended with {code}: {_last_line(log)}" if code else None
        except subprocess.TimeoutExpired:
            fault = f"it did not end, and was killed {grace} s after its time; last: {_last_line(log)}"
        finally:
            if job.poll() is None:
                os.killpg(job.pid, signal.SIGKILL)
                job.wait()
    yield from rows_of_file(file)
    if fault:
        yield {"part": part, **row("the part itself", FAIL, fault, "an end in time")}


def child(given):
    """What such a process does; it writes each row when it has it."""
    given = json.loads(given)
    part, file = given.pop("part"), given.pop("rows")
    with open(file, "a", encoding="utf-8") as rows:
        for found in rows_here(part, Setting(**{**given, "folder": Path(given["folder"])})):
            rows.write(json.dumps(found) + "\n")
            rows.flush()


def run(parts, device, *, quick, folder, deadline, apart):
    """Yield each part and its rows; a part for which no time is left has one row that says so.

    Args:
        parts: Seconds that each part may take at most, by name.
        device: `cuda` or `cpu`.
        quick: Fewer cases and rounds.
        folder: Where the parts may write.
        deadline: When all should be over, in seconds of `time.time`.
        apart: Whether each part has a process of its own.
    """
    for part, seconds in parts.items():
        limit = min(seconds, deadline - time.time())
        if limit < 5:
            yield part, [{"part": part, **row("all", NOT_RUN, "time")}]
            continue
        print(f"{part}: at most {limit:.0f} s", flush=True)
        own = folder / part
        own.mkdir()
        setting = Setting(device, quick, own, time.time() + limit)
        yield part, list((rows_apart if apart else rows_here)(part, setting))


def _last_line(log):
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "nothing on stderr"
