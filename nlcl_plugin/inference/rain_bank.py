"""Banks of rain layers: R of each image of a folder or LMDB, in an LMDB that stock readers read as images."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from nlcl_plugin.data.files import sha256, write_whole
from nlcl_plugin.data.image_io import decode_raw, encode_png, to_float, to_tensor, to_uint8
from nlcl_plugin.data.image_sources import ImageSource, is_lmdb, open_source
from nlcl_plugin.data.lmdb import create
from nlcl_plugin.data.lmdb.create import BANK_FILE, SHEET_FILE, BuildReport
from nlcl_plugin.data.lmdb.encode import Value
from nlcl_plugin.data.lmdb.keys import SourceFile, digest_of, keys_of, list_sources, read_records, state_of
from nlcl_plugin.data.lmdb.store import close_environment, open_environment
from nlcl_plugin.errors import InputError, escape
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import PLAIN
from nlcl_plugin.pictures import Cell, brightened, grid

MIN_MEAN_RAIN = 0.001  # the same as the default of train.min_mean_rain
SHOWN = 12  # pairs of the contact sheet
_COLUMNS = 6  # pictures in a row
_WIDTH, _HEIGHT = 230, 200  # the largest picture, pixels
BATCH_IMAGES = 16  # which a kill may lose; each may take a second
_EQUAL = 1e-4  # channels that differ by less, in [0, 1], are one grey: O - B has rounding errors


def extract_rain_bank(network: ImageDerainer, root: str, output: str, *, overwrite: bool = False) -> BuildReport:
    """Extract the rain layers of images into an LMDB.

    The LMDB appears when it is whole, with `rain_bank.json`, which records its origin, and `rain_bank.png`,
    some images beside their layers. The same call finishes a run that was killed. Unreadable images are `skipped`.

    Args:
        network: What extracts.
        root: The rainy images: a folder that is searched to its depth, or an LMDB by its ending.
        output: The bank, ending in `.lmdb`.
        overwrite: Replace a bank that exists.

    Raises:
        InputError: If nothing can be read, the weights don't fit, there is no rain, or the LMDB cannot be written.
    """
    output = os.path.expanduser(output)
    create.check_output(os.path.expanduser(root), output)
    images = open_source(root)
    sources = _list(images)
    derainer = network.derainer
    identity = {key: derainer.about[key] for key in ("label", "network")} | {"weights_sha256": sha256(derainer.source)}
    identity |= {key: value for key in PLAIN if (value := getattr(derainer, key)) != PLAIN[key]}

    def encode(source: SourceFile) -> list[Value]:
        path = os.path.join(images.root, source.name)
        rain = rain_of(network, decode_raw(images.read(source.name), path))
        shape = (rain.shape[0], rain.shape[1], 1 if rain.ndim == 2 else 3)
        return [Value(encode_png(rain), shape)]

    recipe = create.Recipe(
        root=images.root,
        sources=sources,
        encode=encode,
        plan={"format": 1, "rain_bank": identity, **digest_of(sources)},
        title="extracting",
        batch_images=BATCH_IMAGES,
        finish=lambda folder: _finish(folder, images, network, identity, output),
    )
    return create.build_lmdb(recipe, output, overwrite=overwrite)


def rain_of(network: ImageDerainer, image: np.ndarray) -> np.ndarray:
    """Extract the rain layer of an image (H, W, 3), RGB, of uint8, uint16 or floats in [0, 1].

    Returns:
        R, clipped to [0, 1] and made 8-bit: (H, W) if it is grey, else (H, W, 3).
    """
    rain = network.rain(to_tensor(image)[None])[0]
    if float((rain.amax(dim=0) - rain.amin(dim=0)).max()) < _EQUAL:
        rain = rain.mean(dim=0, keepdim=True)
    pixels = (rain.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _list(images: ImageSource) -> list[SourceFile]:
    if not is_lmdb(images.root):
        return list_sources(images.root)
    # An ending, as keys have none that could be taken off.
    names = sorted(images.names)
    keys = keys_of([f"{name}.png" for name in names])
    file = os.path.join(images.root, "data.mdb")
    return [SourceFile(name, key, file, state_of(file)) for name, key in zip(names, keys, strict=True)]


def _finish(folder: Path, images: ImageSource, network: ImageDerainer, identity: dict[str, Any], output: str) -> None:
    """Measure what was extracted, and add the facts and the contact sheet."""
    records = list(read_records(folder))
    shown = {records[place].key for place in np.linspace(0, len(records) - 1, SHOWN).round().astype(int)}
    total, pixels, brightest, pairs = 0.0, 0, 0, []
    bank = open_environment(folder)
    try:
        for record in records:
            rain = decode_raw(bank.get(record.key.encode()) or b"", record.source)
            total += float(rain.mean()) / 255 * record.h * record.w
            pixels += record.h * record.w
            brightest = max(brightest, int(rain.max()))
            if record.key in shown:
                rainy = decode_raw(images.read(record.source), os.path.join(images.root, record.source))
                pairs.append((record.source, to_uint8(to_float(rainy)), rain))
    finally:
        close_environment(folder)
    mean = total / pixels
    if mean < MIN_MEAN_RAIN:
        create.remove(folder)
        raise InputError(
            f"{output}: the rain layers are empty, their mean is {mean:.5f}, expected at least {MIN_MEAN_RAIN}: "
            f"{network.derainer.source} finds no rain in {images.root}; give later weights, train longer or with "
            "another manual_seed, or give images with rain as --input"
        )
    facts = {
        "format": 1,
        "weights": str(network.derainer.source),
        "iter": network.derainer.about["iter"],
        **identity,
        "input": images.root,
        "images": len(records),
        "mean_rain": mean,
        "max_rain": brightest / 255,
    }
    write_whole(folder / BANK_FILE, json.dumps(facts, indent=2).encode() + b"\n")
    heading = f"{len(pairs)} of {len(records)} layers, mean R {mean:.4f}"
    write_whole(folder / SHEET_FILE, _draw_sheet(pairs, heading))


def _draw_sheet(pairs: list[tuple[str, np.ndarray, np.ndarray]], heading: str) -> bytes:
    """Draw rainy images, with their rain layers to the right of them, as a PNG."""
    layers, factor = brightened([to_float(rain) for _, _, rain in pairs])
    cells = []
    for (name, rainy, rain), layer in zip(pairs, layers, strict=True):
        name = name if len(name) <= 30 else f"…{name[-29:]}"
        cells += [Cell(rainy, escape(name)), Cell(layer, f"mean R {rain.mean() / 255:.4f}")]
    rows = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    heading = f"{heading}; left rainy, right the rain layer, {factor:g} times as bright as it is"
    return encode_png(grid(rows, _WIDTH, _HEIGHT, heading=heading))
