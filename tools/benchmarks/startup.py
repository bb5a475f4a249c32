"""The time of `import nlcl_plugin` against that of `import basicsr`."""

import os
import subprocess
import sys
import time

from benchmarks.machine import clock, ratios, spread
from benchmarks.own_process import TOOLS

ROUNDS = 7
# BasicSR imports a module that torchvision has no more; this is the least that gets it imported.
STAND_IN = """
import sys, types
from torchvision.transforms import functional
module = types.ModuleType("torchvision.transforms.functional_tensor")
module.rgb_to_grayscale = functional.rgb_to_grayscale
sys.modules[module.__name__] = module
import basicsr
"""
SIDES = {"basicsr": STAND_IN, "nlcl_plugin": "import nlcl_plugin"}
# Not ru_maxrss, which begins at what the process that started this one had.
REPORT = "\nfrom benchmarks.own_process import peak_mb; print(peak_mb())"


def measure(folder, arguments):
    """Yield the rows of this part."""
    times, peaks = {name: [] for name in SIDES}, {}
    for count in range(arguments.rounds + 1):
        for name, code in SIDES.items():
            start = _clock()
            peaks[name] = float(_run(code, folder))
            if count:  # the first fills the system's cache
                times[name].append(_clock() - start)
    found = spread(ratios(times["basicsr"], times["nlcl_plugin"]))
    yield {
        "part": "startup",
        "case": "import",
        **found,
        "peak_mb": peaks["nlcl_plugin"],
        "reference_peak_mb": peaks["basicsr"],
        "text": f"import nlcl_plugin takes {1 / found['ratio']:.2f} × import basicsr, the interpreter's start included",
    }


def _clock():
    if clock is time.perf_counter:
        return clock()
    taken = os.times()
    return taken.children_user + taken.children_system


def _run(code, folder):
    paths = [str(TOOLS), str(TOOLS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    job = subprocess.run(
        [sys.executable, "-c", code + REPORT], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    if job.returncode:
        raise RuntimeError(job.stderr[-3000:])
    return job.stdout.splitlines()[-1]
