"""A training step of nlcl.yml: precision, memory layout and compilation against plain fp32, in alternating pairs."""

import gc
import math

from benchmarks.machine import ratios, spread
from gpu import device
from gpu.rows import MEASURED, NOT_RUN, attempt, check, no_time, row
from gpu.training import build, noise, paper

SWITCHES = {
    "channels_last": {"channels_last": True},
    "bf16": {"amp": "bf16"},
    "fp16": {"amp": "fp16"},
    "bf16, channels_last": {"amp": "bf16", "channels_last": True},
    "fp16, channels_last": {"amp": "fp16", "channels_last": True},
    "compile": {"compile": True},
    "bf16, channels_last, compile": {"amp": "bf16", "channels_last": True, "compile": True},
}
TINY = ("bf16, channels_last",)


def measure(setting):
    """Yield the rows of this part."""
    crop = 48 if setting.tiny else 256
    for batch in (1,) if setting.tiny else (1, 8):
        yield from _of_batch(setting, batch, crop)
        gc.collect()
        device.free(setting.device)


def _of_batch(setting, batch, crop):
    built = []

    def plain(case):
        built.append(_Side(setting, batch, crop, {}))
        return _alone(case, built[0], setting)

    case = f"fp32, batch {batch}, crop {crop}"
    fits = setting.fits(1 if setting.tiny else 15)
    yield attempt(case, plain, case) if fits else no_time(case)
    for name, switches in SWITCHES.items() if built else ():  # none after too little memory, or time
        case = f"{name}, batch {batch}, crop {crop}"
        compiled = "compile" in switches
        if setting.tiny and name not in TINY:
            yield row(case, NOT_RUN, "a CPU takes one of them, to test this tool")
        elif setting.quick and (compiled or "fp16" in name or batch > 1):
            yield row(case, NOT_RUN, "--quick")
        elif compiled and (reason := device.no_compiler()):
            yield row(case, NOT_RUN, reason)
        elif not setting.fits(60 if compiled else 1 if setting.tiny else 8):
            yield no_time(case)
        else:
            yield attempt(case, _against, case, built[0], setting, batch, crop, switches)
            gc.collect()
            device.free(setting.device)


class _Side:
    """A model with a batch, and steps of it."""

    def __init__(self, setting, batch, crop, switches):
        self.batch, self.device, self.count = batch, setting.device, 0
        self.model = build(paper(setting, **switches))
        self.model.feed_data(noise(batch, crop))
        for _ in range(1 if setting.tiny else 3):  # the first compiles, chooses kernels and makes optimizer states
            self.step()

    def step(self):
        self.count += 1
        self.model.optimize_parameters(self.count)

    def figures(self, seconds):
        """Median rates, the largest memory of a step, and whether the losses are finite."""
        peak = device.peak_mb(self.step, self.device)
        losses = self.model.log_dict.values()
        taken = spread(seconds)["ratio"]
        return {
            "steps_per_second": 1 / taken,
            "images_per_second": self.batch / taken,
            "peak_mb": peak,
            "finite": all(map(math.isfinite, losses)),
        }


def _alone(case, side, setting):
    taken = [device.seconds(side.step, setting.device, _calls(setting)) for _ in range(_rounds(setting))]
    return _row(case, side.figures(taken))


def _against(case, plain, setting, batch, crop, switches):
    side = _Side(setting, batch, crop, switches)
    taken = [[], []]
    for _ in range(_rounds(setting)):
        for times, each in zip(taken, (plain, side), strict=True):
            times.append(device.seconds(each.step, setting.device, _calls(setting)))
    return _row(case, {**side.figures(taken[1]), **spread(ratios(*taken))})


def _row(case, figures):
    text = (
        f"{figures['steps_per_second']:.2f} steps/s, {figures['images_per_second']:.2f} images/s, "
        f"{figures['peak_mb']:.0f} MB above weights and optimizer"
    )
    if "ratio" in figures:
        text = f"{figures['ratio']:.2f} × ({figures['low']:.2f}–{figures['high']:.2f}) as fast as fp32; {text}"
    if not figures["finite"]:
        return check(case, False, f"a loss is not finite; {text}", "finite losses", **figures)
    return row(case, MEASURED, text, **figures)


def _rounds(setting):
    return 1 if setting.tiny else 3 if setting.quick else 5


def _calls(setting):
    return 1 if setting.tiny else 3
