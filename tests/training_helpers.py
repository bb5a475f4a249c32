"""Small real folders and option files for tests that start the command."""

import copy
import subprocess
import sys

import cv2
import numpy as np
import yaml

TINY = {
    "name": "tiny",
    "model_type": "NLCLModel",
    "num_gpu": 0,
    "manual_seed": 1,
    "decomposition": "residual",
    "datasets": {
        "train": {
            "type": "UnpairedImageDataset",
            "dataroot_lq": "rainy",
            "dataroot_gt": "clean",
            "gt_size": 32,
            "batch_size_per_gpu": 2,
            "num_worker_per_gpu": 0,
        },
        "val": {"name": "pairs", "type": "PairedImageDataset", "dataroot_lq": "val_rainy", "dataroot_gt": "val_clean"},
    },
    "network_g": {"type": "LayerGenerator", "layer": "residual", "num_out_ch": 1, "num_feat": 8, "num_block": 1},
    "network_d": {"type": "PatchDiscriminator", "num_feat": 8, "num_layers": 2, "antialias": False},
    "network_s": {"type": "ResidualUNet", "num_feat": 8, "num_block": 1},
    "train": {
        "total_iter": 6,
        "ema_decay": 0.9,
        "optim_g": {"type": "Adam", "lr": 5e-4},
        "optim_s": {"type": "Adam", "lr": 1e-3},
        "scheduler": {"type": "LinearDecayLR"},
        "gan_opt": {"type": "GANLoss", "gan_type": "lsgan"},
        "relay_opt": {"type": "RelayLoss", "loss_weight": 8.0, "ramp_iter": 2},
        "restorer_opt": {"start_iter": 3},
    },
    "val": {"val_freq": 100, "save_img": True},
    "logger": {"print_freq": 2, "save_checkpoint_freq": 2},
}


def tiny_options(**changes):
    return {**copy.deepcopy(TINY), **changes}


def write_options(folder, options, name="options.yml"):
    path = folder / name
    path.write_text(yaml.safe_dump(options, sort_keys=False), encoding="utf-8")
    return path


def photograph(height, width, seed=0):
    """A smooth colourful image with edges and texture, uint8 RGB."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width] / max(height, width)
    phase = rng.uniform(0, 6, (3, 1, 1))
    waves = 0.5 + 0.25 * np.sin(9 * rows + phase) + 0.15 * np.sin(23 * columns * (1 + rows) + 2 * phase)
    waves[:, height // 3 : height // 2, width // 4 : width // 2] *= 0.5
    noisy = waves + rng.normal(0, 0.02, waves.shape)
    return (noisy.clip(0, 1).transpose(1, 2, 0) * 255).round().astype(np.uint8)


def make_folders(root, pairs=2, draw=photograph):
    """rainy/ (3 images), clean/ (5 other images, other names), val_rainy/ and val_clean/ (so many pairs)."""
    for seed, (folder, names) in enumerate(
        (
            ("rainy", [f"rainy_{i}" for i in range(3)]),
            ("clean", [f"clean_{i}" for i in range(5)]),
            ("val_clean", [str(i) for i in range(pairs)]),
        )
    ):
        (root / folder).mkdir()
        for i, name in enumerate(names):
            cv2.imwrite(str(root / folder / f"{name}.png"), draw(48, 56, seed=10 * seed + i))
    (root / "val_rainy").mkdir()
    for i in range(pairs):
        image = cv2.imread(str(root / "val_clean" / f"{i}.png")).astype(int)
        image[:, ::7] += 60
        cv2.imwrite(str(root / "val_rainy" / f"{i}.png"), image.clip(0, 255).astype(np.uint8))


def check_alone(options, monkeypatch, *, is_train=True):
    """Check options as the command does, but not what datasets find in their folders: these need not be there."""
    from nlcl_plugin.config import check, option_files

    monkeypatch.setattr(check, "check_dataset", lambda where, dataset, planned: None)
    options = option_files.without_nulls(options)
    check.check_options(options, is_train=is_train)
    option_files.complete(options, root=".", is_train=is_train, auto_resume=False, debug=False)
    check.check_data(options)


def states(folder):
    """Iterations of the training states that are there, as texts."""
    return sorted(path.stem for path in (folder / "experiments/tiny/training_states").glob("*.state"))


def run(folder, *arguments, timeout=300):
    """Run `python -m nlcl_plugin` in a folder; returns the finished process."""
    return subprocess.run(
        [sys.executable, "-m", "nlcl_plugin", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def torchrun(folder, script, *arguments):
    """Run a Python script in two processes; returns the finished torchrun."""
    (folder / "script.py").write_text(script)
    command = [*TORCHRUN, "script.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
