"""What the machine can do at best: the rates behind analytic floors, and how times are taken."""

import os
import time
from statistics import median

import torch
import torch.nn.functional as F

# CPU time of the process leaves out what other work on the machine takes away; with one thread it is a fair clock.
clock = time.process_time if os.environ.get("NLCL_BENCHMARK_CLOCK") == "cpu" else time.perf_counter


def product_rate(device="cpu"):
    """FLOP/s of an fp32 matrix product now, the best of several tries: what else the machine does only lowers it."""
    side = 1024 if device == "cpu" else 8192
    left = torch.rand(side, side, device=device)
    return 2 * side**3 / _best(lambda: left @ left, device)


def convolution_rate(device="cpu"):
    """The same of an fp32 3×3 convolution of 32 channels, that of the generators."""
    size = 256 if device == "cpu" else 1024
    image, weight = torch.rand(1, 32, size, size, device=device), torch.rand(32, 32, 3, 3, device=device)
    with torch.no_grad():
        return 2 * 9 * 32 * 32 * size**2 / _best(lambda: F.conv2d(image, weight, padding=1), device)


def _best(work, device, tries=5):
    work()
    return min(seconds(work, device) for _ in range(tries))


def seconds(work, device="cpu"):
    """Time of a call; that of what it left a GPU to do included."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = clock()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return clock() - start


def alternate(sides, rounds, device="cpu"):
    """Time several callables in turn, after a warm-up of each.

    Args:
        sides: Callables by name.
        rounds: How often each is timed.
        device: Where they work.

    Returns:
        Seconds of each round, by name.
    """
    times = {name: [] for name in sides}
    for count in range(rounds + 1):
        for name, work in sides.items():
            taken = seconds(work, device)
            if count:
                times[name].append(taken)
    return times


def spread(values):
    """Median and extremes of the rounds."""
    return {"ratio": median(values), "low": min(values), "high": max(values)}


def ratios(over, under):
    """Round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]
