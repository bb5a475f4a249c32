"""Image files of every kind, and what an LMDB contains, for the tests of the LMDB tools."""

import io
import json
import sys

import create_lmdb as create_script
import cv2
import lmdb
import numpy as np
from PIL import Image

from nlcl_plugin.data.lmdb import create as lmdb_create


def create_in_small_batches(arguments):
    """What a child process runs."""
    lmdb_create.BATCH_IMAGES = 3
    sys.exit(create_script.main(arguments))


def noise(size, seed=0, channels=3, dtype=np.uint8):
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def with_pillow(image, kind, orientation=None, **options):
    buffer = io.BytesIO()
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def with_opencv(image, ending=".png"):
    return cv2.imencode(ending, image)[1].tobytes()


def write_files(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def some_images(count, size=(40, 56)):
    """PNG and JPEG files in two folders, of different sizes, one of them broken."""
    files = {"b/broken.png": b"no image"}
    for i in range(count):
        ending = ".png" if i % 3 else ".jpg"
        files[f"{'ab'[i % 2]}/{i:03d}{ending}"] = with_opencv(noise((size[0] + i % 3, size[1] - i % 5), seed=i), ending)
    return files


def write_lmdb(path, values, meta=None):
    """Write BasicSR's layout by hand: values by key, and one meta line for each."""
    environment = lmdb.open(str(path), map_size=1 << 26)
    with environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    environment.close()
    lines = [f"{key}.png (4,5,3) 1" for key in values] if meta is None else meta
    (path / "meta_info.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def values(path):
    """Every value of an LMDB by its key, read without our code."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {bytes(key).decode(): bytes(value) for key, value in transaction.cursor()}


def records(path):
    return [json.loads(line) for line in (path / "keys.jsonl").read_text().splitlines()]


def contents(path):
    """All that two LMDBs have in common if they are the same; `data.mdb` may have its pages in another order."""
    names = {item.name for item in path.iterdir()} - {"data.mdb", "lock.mdb"}
    return values(path), {name: (path / name).read_bytes() for name in names}
