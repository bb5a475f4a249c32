"""What the machine can do at best: the rates behind analytic floors, and how times are taken."""

import os
import time
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F

# CPU time of the process leaves out what other work on the machine takes away; with one thread it is a fair clock.
clock = time.process_time if os.environ.get("NLCL_BENCHMARK_CLOCK") == "cpu" else time.perf_counter


class Rates(NamedTuple):
    """Measured rates.

    Attributes:
        product: FLOP/s of an fp32 matrix product.
        convolution: FLOP/s of an fp32 3×3 convolution of 32 channels, that of the generators.
        copy: Bytes/s of a copy that leaves the cache, read and written.
    """

    product: float
    convolution: float
    copy: float

    def __str__(self):
        return (
            f"{self.product / 1e9:.0f} GFLOP/s in products, {self.convolution / 1e9:.0f} GFLOP/s in 3×3 convolutions, "
            f"{self.copy / 1e9:.1f} GB/s in copies"
        )


def measure_rates(device="cpu"):
    """Rates of the machine as it is now, each the best of several tries: what else it does only lowers them."""
    side, size = (1024, 256) if device == "cpu" else (8192, 1024)
    left = torch.rand(side, side, device=device)
    image, weight = torch.rand(1, 32, size, size, device=device), torch.rand(32, 32, 3, 3, device=device)
    source = torch.rand(16 << 20 if device == "cpu" else 256 << 20, device=device)
    target = torch.empty_like(source)
    with torch.no_grad():
        return Rates(
            2 * side**3 / _best(lambda: left @ left, device),
            2 * 9 * 32 * 32 * size**2 / _best(lambda: F.conv2d(image, weight, padding=1), device),
            2 * source.numel() * 4 / _best(lambda: target.copy_(source), device),
        )


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
