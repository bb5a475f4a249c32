"""A tiny config on small real folders, and `tools/mm_train.py` in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# The networks and losses of tests/engine/helpers.py, and more losses; appended to by single tests.
CONFIG = f"""
_base_ = ["{REPOSITORY}/options/mmengine/nlcl_rain.py"]
randomness = dict(seed=1)
train_cfg = dict(max_iters=6, val_interval=100)
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
        restorer_opt=dict(start_iter=3),
    ),
)
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    sampler=dict(ratio=2),
    dataset=dict(opt=dict(dataroot_lq="rainy", dataroot_gt="clean", gt_size=32, seed=1)),
)
val_dataloader = dict(dataset=dict(opt=dict(dataroot_lq="val_rainy", dataroot_gt="val_clean")))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=3))
log_processor = dict(window_size=1)
"""


def write_config(folder, more="", name="tiny.py"):
    path = folder / name
    path.write_text(CONFIG + more, encoding="utf-8")
    return path


def train(folder, config, *arguments, processes=1, check=True):
    """Run the tool in a folder; returns the finished process."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        arguments = (*arguments, "--launcher", "pytorch")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [*start, str(REPOSITORY / "tools" / "mm_train.py"), str(config), *map(str, arguments)],
        cwd=folder,
        env=environment,
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
