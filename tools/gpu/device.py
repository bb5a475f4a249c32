"""All calls of CUDA, each with what takes its place on a CPU."""

import contextlib
import shutil
import subprocess
from importlib.util import find_spec

import torch
from benchmarks import machine, own_process


def free(device):
    """Give cached memory back, so that one case does not take it from the next."""
    if device != "cpu":
        torch.cuda.empty_cache()


def peak_mb(work, device):
    """Largest memory during a call above that before it, in MB: of tensors on a GPU, of the process on a CPU."""
    if device == "cpu":
        own_process.reset_peak()
        before = own_process.resident_mb()
    else:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / 2**20
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return own_process.peak_mb(device) - before


def seconds(work, device, calls):
    """Time of one of several calls in a row: events of the GPU around all, or a clock.

    The GPU may run behind the Python program between the calls, as in a training.
    """
    if device == "cpu":
        return machine.seconds(lambda: [work() for _ in range(calls)], device) / calls
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000 / calls


def copy_rate(device):
    """Bytes/s that a copy reads and writes, together: the memory bandwidth that floors are made of."""
    values = torch.zeros(2**22 if device == "cpu" else 2**28, device=device)
    target = torch.empty_like(values)
    target.copy_(values)
    best = min(seconds(lambda: target.copy_(values), device, 5) for _ in range(3))
    return 2 * values.numel() * values.element_size() / best


@contextlib.contextmanager
def exact():
    """Full fp32 within it: no TF32, which rounds factors to 10 bits of fraction; on a CPU it changes nothing."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def count(device):
    """GPUs that can be used."""
    return 0 if device == "cpu" else torch.cuda.device_count()


def no_compiler():
    """Why torch.compile cannot work for this GPU, or None."""
    if find_spec("triton") is None:
        return "torch.compile needs Triton, which is not installed"
    if torch.cuda.get_device_capability() < (7, 0):
        return "torch.compile needs a GPU of compute capability 7.0"
    return None if any(map(shutil.which, ("cc", "gcc", "clang"))) else "torch.compile needs a C compiler"


def facts(device):
    """What the machine is, by name."""
    found = {
        "torch was built for CUDA": torch.version.cuda or "no",
        "cuDNN": torch.backends.cudnn.version() or "none",
        "TF32 of products, of convolutions": f"{torch.backends.cuda.matmul.allow_tf32}, "
        f"{torch.backends.cudnn.allow_tf32}",
    }
    if device == "cpu":
        return found
    found["driver"] = _driver()
    found["bf16"] = torch.cuda.is_bf16_supported()
    for index in range(torch.cuda.device_count()):
        has = torch.cuda.get_device_properties(index)
        free_bytes, total = torch.cuda.mem_get_info(index)
        found[f"GPU {index}"] = (
            f"{has.name}, compute capability {has.major}.{has.minor}, {has.multi_processor_count} multiprocessors, "
            f"{free_bytes / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        )
    return found


def _driver():
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown ({error})"
