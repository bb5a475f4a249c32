"""Reading training images and making LMDBs."""

import shutil
import subprocess
import sys
import time
from statistics import median

import cv2
import numpy as np
import skimage.data

import nlcl_plugin  # noqa: F401  before BasicSR, which it mends
from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.data.lmdb.encode import Cut
from nlcl_plugin.data.lmdb.store import LmdbImages
from nlcl_plugin.data.sampler import SampleIndex
from nlcl_plugin.data.unpaired_image_dataset import UnpairedImageDataset
from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.renderer import render_rain

ROUNDS = 7
PHOTOGRAPHS = 10  # a folder, rainy and clean
SAMPLES = 20  # a round
SMALL = (200, 20_000)  # images, for memory
JOBS = 2


def measure(folder, arguments):
    """Yield the rows of this part."""
    for name, seed in (("rainy", 0), ("clean", 1)):
        _write_photographs(folder / name, seed)
        create_lmdb(folder / name, folder / f"{name}.lmdb", cut=Cut(480, 240), jobs=JOBS)
        images = LmdbImages(folder / f"{name}.lmdb")
        (folder / f"{name}_480").mkdir()
        for key in images.names:
            (folder / f"{name}_480" / f"{key}.png").write_bytes(images.read(key))
    yield from _rendering(arguments.rounds)
    yield from _reading(folder, arguments.rounds)
    yield from _converting(folder, arguments.rounds)
    yield from _memory(folder)


def _write_photographs(folder, seed):
    """1080p PNGs: photographs of scikit-image, enlarged, each another part, with a sensor's noise."""
    rng = np.random.default_rng(seed)
    sources = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.rocket(), skimage.data.chelsea()]
    for number in range(PHOTOGRAPHS):
        source = sources[number % len(sources)]
        height = int(source.shape[0] * rng.uniform(0.5, 0.8))
        width = min(int(height * 16 / 9), source.shape[1])
        top, left = rng.integers(source.shape[0] - height + 1), rng.integers(source.shape[1] - width + 1)
        image = cv2.resize(source[top : top + height, left : left + width], (1920, 1080), interpolation=cv2.INTER_CUBIC)
        noisy = np.clip(np.rint(image + rng.normal(0, 2, image.shape)), 0, 255)
        write_image(folder / f"{number}.png", noisy.astype(np.uint8))


def _rendering(rounds):
    """The renderer of photographic rain against the demo's, on the same seeds."""
    for side in (96, 256):
        times = {render_photographic_rain: [], render_rain: []}
        for _ in range(rounds):
            for render, seconds in times.items():
                start = time.perf_counter()
                for seed in range(SAMPLES):
                    render((side, side), np.random.default_rng(seed))
                seconds.append((time.perf_counter() - start) / SAMPLES)
        ours, demo = times.values()
        ratio = median(a / b for a, b in zip(demo, ours, strict=True))
        case = f"photographic rain of {side} × {side} pixels, against the demo's renderer"
        text = f"{case}: {ratio:.2f} × ({1000 * median(ours):.1f} against {1000 * median(demo):.1f} ms)"
        yield {"part": "data", "case": case, "ratio": ratio, "text": text}


def _reading(folder, rounds):
    def dataset(suffix, backend):
        return UnpairedImageDataset(
            {
                "phase": "train",
                "dataroot_lq": str(folder / f"rainy{suffix}"),
                "dataroot_gt": str(folder / f"clean{suffix}"),
                "io_backend": {"type": backend},
                "gt_size": 256,
            }
        )

    sides = {
        "1080p PNG files": dataset("", "disk"),
        "480-pixel PNG files": dataset("_480", "disk"),
        "LMDB of 480-pixel images": dataset(".lmdb", "lmdb"),
    }
    rates = {name: [] for name in sides}
    for epoch in range(rounds + 1):  # the first is a warm-up
        for name, images in sides.items():
            chosen = np.random.default_rng(epoch).integers(len(images), size=SAMPLES)
            start = time.perf_counter()
            for draw, index in enumerate(chosen):
                images[SampleIndex(int(index), epoch=epoch, draw=draw)]
            rates[name].append(SAMPLES / (time.perf_counter() - start))
    reference = rates["1080p PNG files"][1:]
    for name, values in rates.items():
        ratio = median(a / b for a, b in zip(values[1:], reference, strict=True))
        case = f"256 crop, rainy and clean, from {name}"
        yield {
            "part": "data",
            "case": case,
            "ratio": ratio,
            "per_second": median(values[1:]),
            "text": f"{case}: {median(values[1:]):.1f} samples/s, {ratio:.1f} × whole files",
        }


def _converting(folder, rounds):
    """Our tool against BasicSR's function with its defaults, and with its processes."""
    (folder / "jpeg").mkdir()
    for path in sorted((folder / "rainy").glob("*.png")):
        cv2.imwrite(str(folder / "jpeg" / f"{path.stem}.jpg"), cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 95])
    sources = {"480-pixel PNG": "rainy_480", "1080p PNG": "rainy", "1080p JPEG": "jpeg"}
    for kind, root in ((kind, folder / name) for kind, name in sources.items()):
        megabytes = sum(path.stat().st_size for path in root.iterdir()) / 1e6
        speeds = {"ours": [], "BasicSR": [], "BasicSR, multiprocessing": []}
        for _ in range(max(rounds // 2, 1)):
            for name, times in speeds.items():
                output = folder / "conversion.lmdb"
                script = OURS if name == "ours" else STOCK
                several = name.endswith("multiprocessing")
                times.append(megabytes / float(_run(script, root, output, several).split()[0]))
                shutil.rmtree(output)
        for name in ("BasicSR", "BasicSR, multiprocessing"):
            ratio = median(a / b for a, b in zip(speeds["ours"], speeds[name], strict=True))
            case = f"LMDB of {kind} files, {JOBS} jobs, against {name}"
            speed = f"{median(speeds['ours']):.0f} against {median(speeds[name]):.0f} MB/s of files"
            yield {"part": "data", "case": case, "ratio": ratio, "text": f"{case}: {ratio:.1f} × ({speed})"}


def _memory(folder):
    """Largest memory of a conversion above that after the imports, for few and for many images."""
    peaks = []
    for count in SMALL:
        root = folder / f"small_{count}"
        root.mkdir()
        rng = np.random.default_rng(0)
        tiles = [
            cv2.imencode(".png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))[1].tobytes() for _ in range(50)
        ]
        for number in range(count):
            (root / f"{number:05}.png").write_bytes(tiles[number % len(tiles)])
        peaks.append(float(_run(OURS, root, folder / f"small_{count}.lmdb", False).split()[1]))
        case = f"memory for an LMDB of {count} images of 64 × 64"
        yield {
            "part": "data",
            "case": case,
            "ratio": peaks[-1] / peaks[0],
            "peak_mb": peaks[-1],
            "reference_peak_mb": peaks[0],
            "text": f"{case}: {peaks[-1]:.0f} MB above the imports, {peaks[-1] / peaks[0]:.1f} × that of {SMALL[0]}",
        }


def _run(script, root, output, several):
    """Seconds and peak of a conversion in a process of its own, without its start."""
    command = [sys.executable, "-c", COMMON + script + REPORT, str(root), str(output), str(int(several)), str(JOBS)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


COMMON = """
import sys, threading, time
from pathlib import Path
import nlcl_plugin
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from nlcl_plugin.data.lmdb.create import create_lmdb
root, output, several, jobs = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1", int(sys.argv[4])
names = sorted(path.name for path in root.iterdir())
def resident():  # what is the process's own; pages of the map belong to the system, which takes them back at need
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024
base = peak = resident()
def watch():
    global peak
    while True:
        peak = max(peak, resident())
        time.sleep(0.01)
threading.Thread(target=watch, daemon=True).start()
start = time.perf_counter()
"""
OURS = """
create_lmdb(root, output, jobs=jobs)
"""
STOCK = """
make_lmdb_from_imgs(str(root), output, names, [name.split(".")[0] for name in names],
                    multiprocessing_read=several, n_thread=jobs)
"""
REPORT = """
seconds = time.perf_counter() - start
print()
print(seconds, peak - base)
"""
