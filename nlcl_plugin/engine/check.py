"""Say in a few lines what an option file would do, checked as a run would check it, without a trace on disk."""

from __future__ import annotations

import copy
import math
import os
import re
from typing import Any

import torch
from basicsr.data import build_dataset

from nlcl_plugin.engine.launch import look
from nlcl_plugin.engine.loaders import TrainingBatches
from nlcl_plugin.engine.rehearsal import silence
from nlcl_plugin.engine.validate_datasets import ROOTS, count_images, is_below


def check(option_file: str, *, force_yml: list[str] | None = None, root: str | None = None) -> list[str]:
    """Check an option file as `train` does, or, without a `train` block, as `test` does.

    Args:
        option_file: A YAML option file, ours or stock BasicSR's.
        force_yml: Overrides, items `block:key=value`.
        root: Folder that would get `experiments/` and `results/`; the current folder by default.

    Returns:
        What would be done: a heading, and a line for each thing that matters.

    Raises:
        InputError: If a run would end in one before its first iteration.
    """
    options, sizes, planned = look(option_file, force_yml=force_yml, root=root)
    lines = {
        "networks": _networks(options, sizes),
        "weights": _weights(options["path"]),
        "data": [_dataset(name, block, planned) for name, block in options["datasets"].items()],
    }
    if options["is_train"]:
        lines |= {
            "losses": _losses(options["train"]),
            "stages": _stages(options["train"]),
            "rates": _rates(options["train"]),
            "batch": _batch(options, planned),
        }
    lines |= {"device": [_device(options)], "metrics": _metrics(options), "output": _output(options)}
    kind = options.get("decomposition")
    heading = f"{options['name']}: {'trains' if options['is_train'] else 'tests'} {options['model_type']}"
    width = max(map(len, lines))
    return [
        f"{heading} ({kind})" if kind else heading,
        *(
            f"  {label if not i else '':{width}}  {line}"
            for label, rows in lines.items()
            for i, line in enumerate(rows)
        ),
    ]


def _networks(options: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    blocks = {key: block for key, block in options.items() if key.startswith("network_")}
    counts = {key: f"{sizes[key]:,} parameters" if key in sizes else "not used" for key in blocks}
    return [f"{key}: {block['type']}, {counts[key]}" for key, block in blocks.items()]


def _weights(paths: dict[str, Any]) -> list[str]:
    given = {key: path for key, path in paths.items() if key.startswith(("pretrain_network_", "resume_state")) and path}
    return [f"{key}: {path}" for key, path in given.items()]


def _dataset(name: str, block: dict[str, Any], planned: str | None) -> str:
    label = name if block["name"] == name else f"{name} ({block['name']})"
    crop = f", crops of {block['gt_size']} pixels" if name == "train" and "gt_size" in block else ""
    if planned is not None and any(is_below(block.get(key), planned) for key in ROOTS):
        return f"{label}: {block['type']}, demo data that would be made in {planned}{crop}"
    with silence():
        images = len(build_dataset(copy.deepcopy(block)))
    roots = {key: block[key] for key in ROOTS if isinstance(block.get(key), str)}
    kinds = {key: "lmdb" if str(root).endswith(".lmdb") else "disk" for key, root in roots.items()}
    counts = ", ".join(f"{root} ({count_images(root, kinds[key]):,})" for key, root in roots.items())
    return f"{label}: {block['type']}, {_many(images, 'image')}{crop}; {counts}"


def _losses(train: dict[str, Any]) -> list[str]:
    lines = [_loss(key, block) for key, block in train.items() if key.endswith("_opt") and "type" in (block or {})]
    mixed = train.get("nlcl_opt")
    if mixed:
        lines += [_loss("nlcl_opt.layer_opt", {"type": "AsymmetricNLCLLoss", **(mixed.get("layer_opt") or {})}, mixed)]
        if mixed.get("location_opt"):
            lines += [_loss("nlcl_opt.location_opt", mixed["location_opt"], mixed)]
    restorer = train.get("restorer_opt")
    if restorer:
        lines += [_loss("restorer_opt.pixel_opt", restorer.get("pixel_opt") or {"type": "L1Loss"})]
        if restorer.get("composite_opt"):
            lines += [_loss("restorer_opt.composite_opt", restorer["composite_opt"])]
    return lines


def _loss(key: str, block: dict[str, Any], within: dict[str, Any] | None = None) -> str:
    weight = block.get("loss_weight", block.get("perceptual_weight", 1.0))
    if within is not None:
        weight *= within.get("loss_weight", 1.0)
    ramp = (within or block).get("ramp_iter", 0)
    rising = f", rising from 0 over {ramp:,} iterations" if ramp else ""
    return f"{key}: {block['type']} × {weight:g}{rising}"


def _stages(train: dict[str, Any]) -> list[str]:
    total = int(train["total_iter"])
    restorer = train.get("restorer_opt")
    if not restorer:
        return [f"iterations 1 to {total:,}"]
    start = restorer["start_iter"]
    lines = [f"1, layers: iterations 1 to {start:,}"] if start else []
    rounds = restorer.get("rounds") or []
    extra = (
        f"; after {', '.join(f'{start + end:,}' for end in rounds)} the restorer extracts the rain" if rounds else ""
    )
    return [*lines, f"2, restorer on pseudo-pairs: iterations {start + 1:,} to {total:,}{extra}"]


def _rates(train: dict[str, Any]) -> list[str]:
    optimizers = {key: block for key, block in train.items() if key.startswith("optim_") and block}
    # A model that makes its own optimizers may need neither.
    named = {key: [str(block[name]) for name in ("type", "lr") if name in block] for key, block in optimizers.items()}
    lines = [f"{key}: {', '.join(parts)}" for key, parts in named.items()]
    schedule = train.get("scheduler")
    warm = train.get("warmup_iter") or -1
    if schedule:
        arguments = ", ".join(f"{key} {value}" for key, value in schedule.items() if key != "type")
        lines.append(f"scheduler: {schedule.get('type', 'the model makes it')}{f' ({arguments})' if arguments else ''}")
    return [*lines, *([f"warm-up over {warm:,} iterations"] if warm > 0 else [])]


def _batch(options: dict[str, Any], planned: str | None) -> list[str]:
    block, accumulate = options["datasets"]["train"], options["train"].get("accumulate", 1)
    if planned is not None and any(is_below(block.get(key), planned) for key in ROOTS):
        size, steps = block["batch_size_per_gpu"] * max(1, options["num_gpu"]), 0
    else:
        with silence():
            batches = TrainingBatches({**copy.deepcopy(options), "manual_seed": options["manual_seed"] or 0})
        size, steps = batches.batch_size, batches.steps
    parts = f" in {accumulate} parts" if accumulate > 1 else ""
    total = int(options["train"]["total_iter"])
    epochs = f"; in one, {_many(steps, 'step')} an epoch, {_many(math.ceil(total / steps), 'epoch')}" if steps else ""
    return [f"{_many(size, 'image')} a step{parts}, times the number of processes{epochs}"]


def _device(options: dict[str, Any]) -> str:
    count = options["num_gpu"]
    place = "CPU" if count == 0 else f"{count} × {torch.cuda.get_device_name()}"
    train = options.get("train") or {}
    extras = [key for key in ("channels_last", "compile") if train.get(key)]
    extras += ["deterministic"] if options.get("deterministic") else []
    seed = options.get("manual_seed")
    seeded = "a seed that is drawn" if seed is None else f"seed {seed}"
    return ", ".join([place, train.get("amp") or "fp32", *extras, seeded])


def _metrics(options: dict[str, Any]) -> list[str]:
    val = options.get("val") or {}
    validates = any(name.startswith("val") for name in options["datasets"])
    names = ", ".join((val.get("metrics") or {}).keys())
    if options["is_train"]:
        when = f"every {int(val['val_freq']):,} iterations and at the end" if validates else "no validation"
        return [f"{when}{f': {names}' if names and validates else ''}"]
    return [names] if names else []


def _output(options: dict[str, Any]) -> list[str]:
    paths = options["path"]
    folder = paths["experiments_root"] if options["is_train"] else paths["results_root"]
    shown = os.path.relpath(folder, options["root_path"])
    if paths.get("resume_state"):
        return [f"{shown}, goes on from {paths['resume_state']}"]
    if not os.path.isdir(folder):
        return [shown]
    states = [int(i) for i in map(_iteration, _names(paths.get("training_states"))) if i is not None]
    resume = f"; --auto_resume goes on from iteration {max(states):,}" if states else ""
    return [f"{shown}, which is there: it would be kept under another name{resume}"]


def _iteration(name: str) -> str | None:
    found = re.fullmatch(r"(\d+)\.state", name)
    return found[1] if found else None


def _names(folder: str | None) -> list[str]:
    return os.listdir(folder) if folder and os.path.isdir(folder) else []


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
