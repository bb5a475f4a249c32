"""A tiny config on small real folders, and `tools/mm_train.py` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "tests" / "training"), str(REPOSITORY / "tools")]  # for their modules

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


def write_config(folder, more="", name="tiny.py"):
    path = folder / name
    path.write_text(CONFIG + more, encoding="utf-8")
    return path


def environment():
    """Of processes that train on the CPU, as MMEngine takes a GPU where there is one."""
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}


def python(code):
    """Run code in a new interpreter; returns the finished process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300)


def model_config(**train_cfg):
    """A model with every loss and both stages; `train_cfg` changes its losses."""
    return {
        "type": "NLCLDerain",
        "generator": {"type": "LayerGenerator", "layer": "residual", "num_out_ch": 1, "num_feat": 8, "num_block": 2},
        "discriminator": {"type": "PatchDiscriminator", "num_feat": 8, "num_layers": 2, "antialias": False},
        "heads": {"type": "ProjectionHeads", "num_feat": 8},
        "restorer": {"type": "ResidualUNet", "num_feat": 8, "num_block": 1},
        "seed": 3,
        "train_cfg": {
            "ema_decay": 0.9,
            "gan_opt": {"type": "GANLoss", "gan_type": "lsgan"},
            "identity_opt": {"type": "L1Loss"},
            "fidelity_opt": {"type": "L1Loss", "loss_weight": 0.1},
            "relay_opt": {"type": "RelayLoss", "loss_weight": 8.0},
            "location_opt": {"type": "LocationContrastLoss", "sampling": {"taps": [0, 2], "num_patches": 16}},
            "layer_opt": {
                "type": "AsymmetricNLCLLoss",
                "sampling": {"taps": [0, 2, 5], "num_queries": 2, "num_image_patches": 4, "num_rain_patches": 6}
                | {"patch_size": 8, "search_size": 16},
            },
            "restorer_opt": {"start_iter": 1},
            **train_cfg,
        },
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


def batch(seed=0, n=4, size=32):
    generator = torch.Generator().manual_seed(seed)
    lq, gt = (torch.rand(n, 3, size, size, generator=generator) for _ in range(2))
    return {"lq": lq, "gt": gt, "lq_path": [f"rainy/{i}.png" for i in range(n)]}


def train(folder, config, *arguments, processes=1, check=True):
    """Run the tool in a folder; returns the finished process."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments = (*arguments, "--launcher", "pytorch")
    done = subprocess.run(
        [*start, str(REPOSITORY / "tools" / "mm_train.py"), str(config), *map(str, arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def losses(work_dir):
    """Losses by iteration, of all runs in a work folder."""
    found = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in file.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            if "mean_rain" in entry:
                found[entry["iter"]] = {k: v for k, v in entry.items() if k.startswith("l_") or k == "mean_rain"}
    return found
