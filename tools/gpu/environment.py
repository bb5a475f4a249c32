"""What the machine is, and what is installed."""

import importlib.metadata
import os
import platform

import torch
from gpu import device
from gpu.rows import FAIL, MEASURED, NOT_RUN, PASS, row

PACKAGES = ("nlcl_plugin", "torch", "torchvision", "basicsr", "numpy", "opencv-python", "mmengine", "triton")


def measure(setting):
    """Yield the rows of this part."""
    yield row("system", MEASURED, f"{platform.platform()}, Python {platform.python_version()}, {os.cpu_count()} cores")
    yield row("packages", MEASURED, ", ".join(f"{name} {_version(name)}" for name in PACKAGES))
    for name, value in device.facts(setting.device).items():
        yield row(name, MEASURED, str(value))
    if setting.device == "cpu":
        yield row("a kernel on the GPU", NOT_RUN, "no GPU: torch.cuda.is_available() is false, or --device cpu")
    else:
        total = float(torch.ones(1000, device="cuda").sum())
        yield row("a kernel on the GPU", PASS if total == 1000 else FAIL, str(total), "1000.0", value=total)
    rate = device.copy_rate(setting.device)
    yield row("memory bandwidth of a copy", MEASURED, f"{rate / 1e9:.0f} GB/s read and written", bytes_per_second=rate)


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
