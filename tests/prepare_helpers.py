"""Small datasets for the tests of the preparation."""

import hashlib
import json
import multiprocessing
from pathlib import Path

import cv2
import numpy as np
from prepare_rain_dataset import main as main

from nlcl_plugin.data.image_io import write_image


def scene(seed, size=(40, 56)):
    """A photograph-like image that resembles no other seed's, uint8 RGB."""
    small = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return cv2.resize(small, size[::-1], interpolation=cv2.INTER_CUBIC)


def rain(image, seed):
    """The same with thin streaks."""
    rng = np.random.default_rng(seed)
    rainy = image.copy()
    for _ in range(12):
        x, y = int(rng.integers(image.shape[1])), int(rng.integers(image.shape[0]))
        cv2.line(rainy, (x, y), (x + 2, y + 8), (230, 230, 230), 1)
    return rainy


def write_pair(rainy_path, clean_path, seed, drop=0):
    write_image(rainy_path, rain(scene(seed), 1000 * seed + drop))
    if not Path(clean_path).exists():
        write_image(clean_path, scene(seed))


def records(output):
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def tree(root):
    """All files below a folder and their hashes, and all folders."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def names(output, folder):
    return sorted(path.name for path in (output / folder).iterdir())


def start(target, arguments):
    """Run a script in a process of its own; returns functions that say whether it is alive, and kill it."""
    # A fork of this process would take over OpenCV's locks in whatever state they are in.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["nlcl_plugin.data.lmdb.create"])
    process = context.Process(target=target, args=(arguments,))
    process.start()
    return process.is_alive, lambda: (process.kill(), process.join())
