"""Small files for the tests of the unpaired dataset."""

import os

import numpy as np
from lmdb_helpers import write_lmdb

from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.data.sampler import EpochSampler

RAINY = ["a/000.png", "a/001.png", "b/000.png", "b/雨 2.png", "c.v1.png"]
CLEAN = ["x/000.png", "x/001.png", "y.png"]


def epoch_indices(size, *, epoch, ratio=1, world_size=1, rank=0):
    """What one rank loads in one epoch."""
    sampler = EpochSampler(range(size), world_size, rank, ratio)
    sampler.set_epoch(epoch)
    return list(sampler)


def write_folder(root, names, seed, size=(12, 17)):
    """Write small images of noise."""
    rng = np.random.default_rng(seed)
    for name in names:
        write_image(root / name, rng.integers(0, 256, (*size, 3), dtype=np.uint8))
    return root


def pack(folder, names):
    """Put a folder's files into an LMDB in BasicSR's layout, by hand."""
    values = {os.path.splitext(name)[0]: (folder / name).read_bytes() for name in names}
    return write_lmdb(folder.with_name(folder.name + ".lmdb"), values)


def make_roots(root):
    """Write the rainy and the clean images, as folders and as LMDBs."""
    rainy, clean = write_folder(root / "rainy", RAINY, 1), write_folder(root / "clean", CLEAN, 2)
    return {"disk": (rainy, clean), "lmdb": (pack(rainy, RAINY), pack(clean, CLEAN))}


def options(roots, backend="disk", **changes):
    rainy, clean = (str(root) for root in roots[backend])
    opt = {
        "name": "rain",
        "type": "UnpairedImageDataset",
        "phase": "train",
        "dataroot_lq": rainy,
        "dataroot_gt": clean,
        "io_backend": {"type": backend},
        "gt_size": 8,
        "use_hflip": True,
        "use_vflip": True,
        "use_rot": True,
        "batch_size_per_gpu": 2,
    }
    return {**opt, **changes}
