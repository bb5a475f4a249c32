"""A tiny config on small real folders, and `tools/mm_train.py` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "tests" / "models"))

import model_helpers  # noqa: E402

# Stage 2 begins with iteration 11 of 20; each epoch has three batches.
CONFIG = f"""
_base_ = ["{REPOSITORY}/options/mmengine/nlcl_rain.py"]
randomness = dict(seed=1)
train_cfg = dict(max_iters=20, val_interval=100)
model = dict(
    seed=1,
    generator=dict(num_feat=8, num_block=1),
    discriminator=dict(num_feat=8),
    heads=dict(num_feat=8),
    restorer=dict(num_feat=8, num_block=1),
    train_cfg=dict(
        ema_decay=0.9,
        layer_opt=dict(ramp_iter=2, sampling=dict(num_image_patches=4, num_rain_patches=6, patch_size=8,
                                                  search_size=16)),
        restorer_opt=dict(start_iter=10, rounds=[4]),
    ),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    sampler=dict(ratio=2),
    dataset=dict(opt=dict(dataroot_lq="rainy", dataroot_gt="clean", gt_size=32, seed=1)),
)
val_dataloader = dict(dataset=dict(opt=dict(dataroot_lq="val_rainy", dataroot_gt="val_clean")))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=8))
log_processor = dict(window_size=1)


def falling(first, last):
    return [dict(type="LinearLR", start_factor=1, end_factor=0.02, begin=(first + last) // 2, end=last + 1,
                 by_epoch=False)]


param_scheduler = dict(_delete_=True, generator=falling(0, 10), discriminator=falling(0, 10), heads=falling(0, 10),
                       restorer=falling(10, 20))
"""


def environment():
    """Of processes that train on the CPU, as MMEngine takes a GPU where there is one."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}


def model_config(**train_cfg):
    """The model of `model_helpers`, with both stages; `train_cfg` changes its losses."""
    opt = model_helpers.options(Path())
    losses = {key: value for key, value in opt["train"].items() if key.endswith("_opt")}
    return {
        "type": "NLCLDerain",
        "generator": opt["network_g"],
        "discriminator": opt["network_d"],
        "heads": opt["network_p"],
        "restorer": opt["network_s"],
        "seed": 3,
        "train_cfg": {**losses, "ema_decay": 0.9, "restorer_opt": {"start_iter": 1}, **train_cfg},
    }


OPTIMIZERS = {"constructor": "NLCLOptimWrapperConstructor", "optimizer": {"type": "Adam", "lr": 1e-3}}


def build(**train_cfg):
    from mmengine.registry import MODELS

    import nlcl_plugin.mm  # noqa: F401

    torch.manual_seed(0)
    return MODELS.build(model_config(**train_cfg))


def optimizers(model, **changes):
    from mmengine.optim import build_optim_wrapper

    return build_optim_wrapper(model, {**OPTIMIZERS, **changes})


def batch(seed=0, n=4):
    return model_helpers.batch(seed, n)


def train(folder, config, *arguments):
    """Run the tool in a folder, in two processes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    tool = [str(REPOSITORY / "tools" / "mm_train.py"), str(config), *map(str, arguments), "--launcher", "pytorch"]
    kwargs = {"capture_output": True, "text": True, "check": False, "timeout": 300}
    done = subprocess.run([*launch, *tool], cwd=folder, env=environment(), **kwargs)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(work_dir):
    """Losses by iteration, of all runs in a work folder."""
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if "mean_rain" in entry:
                found[entry["iter"]] = {k: v for k, v in entry.items() if k.startswith("l_") or k == "mean_rain"}
    return found
