"""Say in a few lines what an option file would do, checked as a run would check it, without a trace on disk."""

from __future__ import annotations

import copy
import math
import os
import time
from typing import Any

import torch
from basicsr.data import build_dataset

from nlcl_plugin.config.check_datasets import ROOTS, is_below
from nlcl_plugin.config.rehearsal import silence
from nlcl_plugin.data.image_sources import open_source
from nlcl_plugin.errors import counted, size_of
from nlcl_plugin.training.launch import dry_run
from nlcl_plugin.training.loaders import TrainingBatches


def check(option_file: str, *, force_yml: list[str] | None = None, full: bool = False) -> list[str]:
    """Check an option file as `train` does, or, without a `train` block, as `test` does.

    Returns what would be done: a heading, and a line for each thing that matters. An `InputError` if a run would end in
    one before its first iteration.
    """
    began = time.perf_counter()
    options, sizes, planned = dry_run(option_file, force_yml=force_yml, full=full)
    seconds = time.perf_counter() - began
    networks = {key: block["type"] for key, block in options.items() if key.startswith("network_")}
    counts = {key: f"{sizes[key]:,} parameters" if key in sizes else "not used" for key in networks}
    weights = {key: path for key, path in options["path"].items() if key.startswith(("pretrain_network", "resume_s"))}
    lines = {
        "networks": [f"{key}: {name}, {counts[key]}" for key, name in networks.items()],
        "weights": [f"{key}: {path}" for key, path in weights.items()],
        "data": [_dataset(name, block, planned) for name, block in options["datasets"].items()],
    }
    if options["is_train"]:
        train = options["train"]
        rates = {key: block for key, block in train.items() if key.startswith("optim_") or key == "scheduler"}
        lines |= {
            "losses": _losses(train),
            "stages": _stages(train),
            "rates": [
                f"{key}: {', '.join(f'{name} {value}' for name, value in b.items())}" for key, b in rates.items()
            ],
            "batch": [_batch(options, planned)],
        }
    lines |= {"device": [_device(options)], "metrics": _metrics(options), "output": [_output(options)]}
    if full and options["is_train"]:
        peak = f", {size_of(torch.cuda.max_memory_allocated())} of GPU memory" if options["num_gpu"] else ""
        lines["rehearsal"] = [f"a step of each stage with the crops of the training: {seconds:.1f} s{peak}"]
    kind = f" ({options['decomposition']})" if "decomposition" in options else ""
    width = max(map(len, lines))
    rows = [(label if not i else "", row) for label, rows in lines.items() for i, row in enumerate(rows)]
    heading = f"{options['name']}: {'trains' if options['is_train'] else 'tests'} {options['model_type']}{kind}"
    return [heading, *(f"  {label:{width}}  {row}" for label, row in rows)]


def _is_planned(block: dict[str, Any], planned: str | None) -> bool:
    return planned is not None and any(is_below(block.get(key), planned) for key in ROOTS)


def _dataset(name: str, block: dict[str, Any], planned: str | None) -> str:
    shown = name if block["name"] == name else f"{name} ({block['name']})"
    label = f"{shown}: {block['type']}"
    crop = f", crops of {block['gt_size']} pixels" if name == "train" and "gt_size" in block else ""
    if _is_planned(block, planned):
        return f"{label}, demo data that would be made in {planned}{crop}"
    with silence():
        images = len(build_dataset(copy.deepcopy(block)))
    roots = [block[key] for key in ROOTS if isinstance(block.get(key), str)]
    counts = ", ".join(f"{root} ({len(open_source(root).names):,})" for root in roots)
    return f"{label}, {counted(images, 'image')}{crop}; {counts}"


def _losses(train: dict[str, Any]) -> list[str]:
    lines = [_loss(key, block) for key, block in train.items() if key.endswith("_opt") and "type" in block]
    for outer, key, default in (
        ("nlcl_opt", "layer_opt", "AsymmetricNLCLLoss"),
        ("restorer_opt", "pixel_opt", "L1Loss"),
    ):
        blocks = {key: {"type": default}, **train[outer]} if outer in train else {}
        if outer == "nlcl_opt" and blocks:
            lines.append(_loss(outer, {"type": "all of its losses", **blocks}))
        lines += [_loss(f"{outer}.{name}", block) for name, block in blocks.items() if name.endswith("_opt")]
    return lines


def _loss(key: str, block: dict[str, Any]) -> str:
    weight, ramp = block.get("loss_weight", block.get("perceptual_weight", 1.0)), block.get("ramp_iter", 0)
    return f"{key}: {block['type']} × {weight:g}" + (f", rising from 0 over {ramp:,} iterations" if ramp else "")


def _stages(train: dict[str, Any]) -> list[str]:
    total, restorer = int(train["total_iter"]), train.get("restorer_opt")
    if not restorer:
        return [f"iterations 1 to {total:,}"]
    start = restorer["start_iter"]
    rounds = ", ".join(f"{start + end:,}" for end in restorer.get("rounds", ()))
    extra = f"; rain is extracted by the restorer of iteration {rounds}" if rounds else ""
    lines = [f"stage 1 (layers): iterations 1 to {start:,}"] if start else []
    return [*lines, f"stage 2 (restorer on pseudo-pairs): iterations {start + 1:,} to {total:,}{extra}"]


def _batch(options: dict[str, Any], planned: str | None) -> str:
    block, accumulate = options["datasets"]["train"], options["train"].get("accumulate", 1)
    size, epochs = block["batch_size_per_gpu"] * max(1, options["num_gpu"]), ""
    if not _is_planned(block, planned):
        with silence():
            batches = TrainingBatches({**copy.deepcopy(options), "manual_seed": options["manual_seed"] or 0})
        size, steps = batches.batch_size, batches.steps
        count = math.ceil(options["train"]["total_iter"] / steps)
        epochs = f"; with one process: {counted(steps, 'step')} per epoch, {counted(count, 'epoch')}"
    parts = f" in {accumulate} parts" if accumulate > 1 else ""
    return f"{counted(size, 'image')} per step{parts} in each process{epochs}"


def _device(options: dict[str, Any]) -> str:
    train, count, seed = options.get("train") or {}, options["num_gpu"], options["manual_seed"]
    place = f"{count} × {torch.cuda.get_device_name()}" if count else "CPU"
    extras = [key for key in ("channels_last", "compile", "deterministic") if train.get(key) or options.get(key)]
    return ", ".join([place, train.get("amp", "fp32"), *extras, "a drawn seed" if seed is None else f"seed {seed}"])


def _metrics(options: dict[str, Any]) -> list[str]:
    val = options.get("val", {})
    names = ", ".join(val.get("metrics", {}))
    if not options["is_train"]:
        return [names] if names else []
    if all(name == "train" for name in options["datasets"]):
        return ["no validation"]
    return [f"every {int(val['val_freq']):,} iterations and at the end{f': {names}' if names else ''}"]


def _output(options: dict[str, Any]) -> str:
    paths = options["path"]
    folder = paths["log"]
    shown = os.path.relpath(folder, options["root_path"])
    if paths.get("resume_state"):
        return f"{shown}: continues from {paths['resume_state']}"
    if not os.path.isdir(folder):
        return shown
    states = paths.get("training_states", "")
    names = [os.path.splitext(name) for name in (os.listdir(states) if os.path.isdir(states) else ())]
    saved = [int(stem) for stem, ending in names if ending == ".state" and stem.isdecimal()]
    resume = f"; --auto_resume continues from iteration {max(saved):,}" if saved else ""
    return f"{shown}: already exists; it would be renamed{resume}"
