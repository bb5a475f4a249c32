"""Several GPUs: gradients of two processes against one with the whole batch, `gather_negatives`, and step time."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from gpu import device
from gpu.rows import MEASURED, NOT_RUN, Setting, check, no_time, row, within

HERE = Path(__file__).resolve()
PROCESSES = 2
EXACT = 1e-8  # of the largest gradient; in fp64, so that only sums in another order differ


def measure(setting):
    """Yield the rows of this part."""
    gpus = device.count(setting.device)
    nccl = gpus >= PROCESSES and torch.distributed.is_nccl_available()
    if not nccl:
        yield row(
            "NCCL", NOT_RUN, f"{gpus} GPUs, and it takes {PROCESSES}; what follows ran on the CPU over gloo, tiny"
        )
    if not setting.fits(15 if setting.tiny else 45):
        yield no_time("two processes")
        return
    for found in job(setting, "cuda" if nccl else "cpu"):
        found["case"] = f"{'NCCL' if nccl else 'gloo on the CPU'}: {found['case']}"
        yield found


def job(setting, where):
    """Rows of rank 0, by torchrun."""
    result = setting.folder / "multi.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
    paths = [str(HERE.parents[1]), str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    if where == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    arguments = [*launch, HERE, result, where, str(int(setting.quick))]
    pipe = subprocess.PIPE
    torchrun = subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=setting.folder)
    try:
        _, errors = torchrun.communicate(timeout=max(setting.deadline - time.time(), 0) + 5)
    except subprocess.TimeoutExpired:
        torchrun.terminate()  # it ends its processes, which have sessions of their own
        torchrun.communicate(timeout=20)
        raise
    if torchrun.returncode:
        lines = [line for line in errors.splitlines() if "Error" in line and "ChildFailed" not in line]
        raise RuntimeError(f"torchrun ends with {torchrun.returncode}: {lines[-1] if lines else errors[-500:]}")
    return json.loads(result.read_text())


def work(result, where, quick):
    """One of the processes: its part of a batch; rank 0 has the whole one first, and writes the rows."""
    from gpu.training import silence  # not above: the other parts' tests do not need it

    setting = Setting(where, bool(int(quick)), Path(result).parent, 0.0)
    rank = int(os.environ["RANK"])
    wanted = {}
    with silence():
        cases = _cases(setting)
        if rank == 0:
            wanted = {case: gradients(options, where) for case, options in cases.items()}
            alone = _seconds(setting)
        _join(where)
        rows = []
        for case, options in cases.items():
            found = gradients(options, where, rank, PROCESSES)
            if rank == 0:
                rows.append(compared(case, found, wanted[case]))
        together = _seconds(setting, rank, PROCESSES)
    if rank == 0:
        text = f"{together * 1e3:.0f} ms in {PROCESSES} processes, {alone * 1e3:.0f} ms in one"
        case = f"step of nlcl.yml, crop {_crop(where)}, one image each"
        rows.append(row(case, MEASURED, text, "about equal with a GPU each", ratio=together / alone))
        Path(result).write_text(json.dumps(rows))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _join(where):
    from nlcl_plugin.training.distributed import join_process_group

    backend = "gloo" if where == "cpu" else "nccl"
    join_process_group("pytorch", {"backend": backend}, on_gpu=where != "cpu")


def _cases(setting):
    from gpu.training import paper

    tiny = Setting("cpu", setting.quick, setting.folder, 0.0)  # a small window, on any device: fp64 is slow
    plain, gathered = paper(tiny), paper(tiny)
    gathered["train"]["layer_opt"]["gather_negatives"] = True
    gathered["train"]["location_opt"].update(negatives="random", gather_negatives=True)
    for options in (plain, gathered):
        options["num_gpu"] = 0 if setting.device == "cpu" else 1
    return {"gradients of nlcl.yml": plain, "gradients with gather_negatives": gathered}


def gradients(options, where, rank=0, processes=1):
    """Gradients of each network as one vector, of every so-manieth image of a batch, in fp64."""
    from gpu.training import build, noise

    torch.set_default_dtype(torch.float64)
    try:
        model = build(options, rank=rank, processes=processes)
        batch = noise(PROCESSES, 48)
        own = {key: value[rank::processes] for key, value in batch.items()}
        model.feed_data({**own, "lq": own["lq"].double(), "gt": own["gt"].double()})
        model.optimize_parameters(1)
    finally:
        torch.set_default_dtype(torch.float32)
    return {
        label: torch.cat([p.grad.flatten().cpu() for p in net.parameters() if p.grad is not None])
        for label, net in model.nets.items()
    }


def compared(case, found, wanted):
    """A row: whether gradients are equal up to the order of sums."""
    off = {
        f"net_{label}": float((found[label] - value).abs().max() / value.abs().max()) for label, value in wanted.items()
    }
    worst = max(off, key=off.get)
    text = f"{', '.join(off)}; {worst} is off by {off[worst]:.1e}"
    return check(case, within(off, EXACT), text, f"≤ {EXACT} of the largest", off=off)


def _seconds(setting, rank=0, processes=1):
    from gpu.training import build, noise, paper

    model, count = build(paper(setting), rank=rank, processes=processes), [0]
    model.feed_data(noise(1, _crop(setting.device), seed=rank))

    def step():
        count[0] += 1
        model.optimize_parameters(count[0])

    calls = 1 if setting.tiny else 10
    for _ in range(1 if setting.tiny else 3):
        step()
    return median(device.seconds(step, setting.device, calls) for _ in range(1 if setting.tiny else 3))


def _crop(where):
    return 48 if where == "cpu" else 256


if __name__ == "__main__":
    work(*sys.argv[1:])
