"""Training steps in one and in two processes, and a model on paper of many GPUs."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

ROUNDS = 2
CROP, STEPS = 96, 6
HERE = Path(__file__).resolve()
OPTIONS = HERE.parents[2] / "options" / "nlcl.yml"
# Assumed for the paper model: between GPUs of a machine, and between machines (100 Gbit/s per 8 GPUs).
NEAR = {"bandwidth": 100e9, "latency": 10e-6}  # bytes/s, seconds a message
FAR = {"bandwidth": 12.5e9, "latency": 30e-6}
A_MACHINE = 8


def measure(folder, arguments):
    """Yield the rows of this part."""
    runs = {1: [], 2: []}
    for _ in range(arguments.rounds):
        for processes, found in runs.items():
            found.append(_job(folder, processes))
    for processes, found in runs.items():
        seconds = median(run["seconds"] for run in found)
        ratio = median(run["seconds"] / alone["seconds"] for run, alone in zip(found, runs[1], strict=True))
        case = f"a step of options/nlcl.yml, crop {CROP}, one image a process, {processes} processes, one core each"
        yield {
            "part": "scaling",
            "case": case,
            "ratio": ratio,
            "seconds": seconds,
            "bytes_a_step": found[0]["bytes"],
            "text": f"{case}: {seconds:.2f} s, {ratio:.2f} × one process; {found[0]['bytes'] / 1e6:.2f} MB all-reduced",
        }
    by_network = runs[2][0]["by_network"]
    yield {
        "part": "scaling",
        "case": "gradients that each process all-reduces in a step",
        "bytes_by_network": by_network,
        "text": "of these, " + ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in by_network.items()),
    }
    for gpus in (8, 64, 512):
        seconds = seconds_on_paper(gpus, runs[2][0]["bytes"])
        case = f"on paper, not measured: all-reduce of a step on {gpus} GPUs"
        yield {
            "part": "scaling",
            "case": case,
            "seconds": seconds,
            "text": f"{case}: {seconds * 1e3:.1f} ms if none of it hides behind the backward pass",
        }


def seconds_on_paper(gpus, size):
    """Time of an all-reduce: each link carries 2 (n - 1) / n of the bytes, and 2 log2(n) messages follow each other.

    Within machines first, then between machines, each machine sending its sum over its one link.
    """

    def reduced(members, bandwidth, latency):
        if members == 1:
            return 0.0
        return 2 * (members - 1) / members * size / bandwidth + 2 * math.log2(members) * latency

    return reduced(min(gpus, A_MACHINE), **NEAR) + reduced(math.ceil(gpus / A_MACHINE), **FAR)


def _job(folder, processes):
    result = folder / f"scaling_{processes}.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    job = subprocess.run(
        [*launch, HERE, result], capture_output=True, text=True, check=False, cwd=folder, env=environment
    )
    if job.returncode:
        raise RuntimeError(job.stderr[-3000:])
    return json.loads(result.read_text())


def _work(result):
    """One process of a job: steps on noise, timed, with the bytes that each network's gradients are reduced in."""
    import time

    import torch

    import nlcl_plugin  # noqa: F401  before BasicSR, which it mends
    from basicsr.models import build_model  # isort: skip
    from nlcl_plugin.config.option_files import load_yaml
    from nlcl_plugin.training.distributed import join_process_group

    join_process_group("pytorch", {"backend": "gloo"}, on_gpu=False)
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    options = load_yaml(str(OPTIONS))
    options.update(num_gpu=0, dist=processes > 1, rank=rank, world_size=processes, is_train=True)
    torch.manual_seed(0)
    model = build_model(options)
    bytes_of = {f"net_{label}": 0 for label in model.nets}

    def count(label, bucket):
        bytes_of[label] += bucket.buffer().numel() * bucket.buffer().element_size()
        total = torch.distributed.all_reduce(bucket.buffer().div_(processes), async_op=True).get_future()
        return total.then(lambda future: future.value()[0])

    if processes > 1:
        for label, net in model.nets.items():
            net.register_comm_hook(f"net_{label}", count)
    times = []
    for step in range(1, STEPS + 3):  # the first two are a warm-up
        noise = torch.rand(2, 1, 3, CROP, CROP)
        model.feed_data({"lq": noise[0], "gt": noise[1], "lq_path": ["noise"]})
        before = dict(bytes_of)
        torch.distributed.barrier()
        start = time.perf_counter()
        model.optimize_parameters(step)
        times.append(time.perf_counter() - start)
    by_network = {label: bytes_of[label] - before[label] for label in bytes_of}
    if rank == 0:
        found = {"seconds": median(times[2:]), "bytes": sum(by_network.values()), "by_network": by_network}
        Path(result).write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _work(sys.argv[1])
