"""Demonstration data, made on the spot from photographs that every installation has: no download, no pairs needed.

The photographs are inside the scikit-image package. They are read by path, because the functions of `skimage.data` may
download. Only photographs that scikit-image documents as public domain or CC0 are used, and of those not `brick`,
`grass` and `gravel`, whose thin pale joints and blades look like rain (they cost up to 1.4 dB), nor those that are
nothing like a photograph taken in rain.

**Training.** Each training photograph is cut into quarters. One diagonal pair of them feeds the rainy tiles, the other
pair the clean ones, alternating by photograph. So no rainy pixel has a clean counterpart, yet both sides show the same
kind of content: where the clean side is smoother or darker by chance, a discriminator learns that, not rain. In trials
with a small network (350 iterations, two seeds) left and right halves gave +0.5 dB over the rainy images, diagonal
quarters +5.1 dB. These choices were made on the validation images below.

**Validation.** Aligned pairs of two photographs that training never sees: one with colour and fur, one with a person,
buildings and grass. All figures on these few crops are for demonstration.

Rain is rendered by `nlcl_plugin.rain.renderer`.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from nlcl_plugin.data.files import parse_record
from nlcl_plugin.data.image_io import read_image, write_image
from nlcl_plugin.errors import InputError, writing_to
from nlcl_plugin.rain.renderer import blend, render_rain

logger = logging.getLogger(__name__)

RECIPE = 1  # any change of what is made, however small, needs a new one
TILES = 300  # rainy ones, and clean ones
TILE_SIDE = 128
CROP_SIDE = 144  # of a validation image: a multiple of 16, so that no network has to pad

_MANIFEST = "manifest.json"
_RAINY, _CLEAN, _VALIDATION = 0, 1, 2  # streams of random numbers


class DemoPhotograph(NamedTuple):
    """A photograph inside scikit-image, `height` × `width` pixels; its source and licence as documented there.

    `crops` are the top left corners (y, x) of its validation crops; a training photograph has none.
    """

    file: str
    height: int
    width: int
    source: str
    licence: str
    crops: tuple[tuple[int, int], ...] = ()


_SPACEX = "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820"
_CHELSEA = tuple((y, x) for y in (0, 156) for x in (0, 153, 307))
_CAMERA = tuple((y, x) for y in (100, 244) for x in (80, 224, 368))  # below the flat sky, above the flat coat
PHOTOGRAPHS = (
    DemoPhotograph("astronaut.png", 512, 512, "NASA Great Images, https://flic.kr/p/r9qvLn", "public domain (NASA)"),
    DemoPhotograph("coffee.png", 400, 600, "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0"),
    DemoPhotograph("rocket.jpg", 427, 640, _SPACEX, "public domain (SpaceX)"),
    DemoPhotograph("chelsea.png", 300, 451, "Stefan van der Walt", "CC0", _CHELSEA),
    DemoPhotograph("camera.png", 512, 512, "Lav Varshney", "CC0", _CAMERA),
)


class Tile(NamedTuple):
    """A training tile: a square (pixels) of a photograph, resized to `TILE_SIDE`, altered, maybe mirrored.

    `channels` is the order of its colours, `gamma` the exponent and then `gain` the factor on its values in [0, 1],
    `stream` the seed of its rain.
    """

    photograph: DemoPhotograph
    top: int
    left: int
    side: int
    channels: tuple[int, ...]
    gamma: float
    gain: float
    flip: bool
    stream: tuple[int, ...]


def plan_tiles(seed: int = 0) -> tuple[list[Tile], list[Tile]]:
    """Plan the rainy and the clean training tiles for a seed, without reading a photograph."""
    photographs = [photograph for photograph in PHOTOGRAPHS if not photograph.crops]
    plans: tuple[list[Tile], list[Tile]] = ([], [])
    for purpose in (_RAINY, _CLEAN):
        for index in range(TILES):
            which = index % len(photographs)
            photograph = photographs[which]
            height, width = photograph.height // 2, photograph.width // 2
            row = index // len(photographs) % 2
            column = (row + which + purpose) % 2
            stream = (seed, purpose, index)
            rng = np.random.default_rng([*stream, 0])
            side = int(TILE_SIDE * rng.uniform(1.0, min(1.8, height / TILE_SIDE, width / TILE_SIDE)))
            plans[purpose].append(
                Tile(
                    photograph=photograph,
                    top=row * height + int(rng.integers(0, height - side + 1)),
                    left=column * width + int(rng.integers(0, width - side + 1)),
                    side=side,
                    channels=tuple(int(channel) for channel in rng.permutation(3)),
                    gamma=float(rng.uniform(0.6, 1.5)),
                    gain=float(rng.uniform(0.7, 1.0)),
                    flip=bool(rng.integers(0, 2)),
                    stream=(*stream, 1),
                )
            )
    return plans


def make_demo_data(root: str | os.PathLike[str], *, seed: int = 0) -> None:
    """Make the demonstration data, unless it is there already.

    `root` then contains the folders `rainy` and `clean` (training, unpaired), `val_clean`, `val_rainy` (rain added) and
    `val_screen_rainy` (the same rain, screen-blended), where equal names belong together, and `LICENSES.txt` and
    `manifest.json`. The same seed gives the same bytes under the same versions of numpy, OpenCV and scikit-image.

    Nothing that exists is ever altered. The data is made in a new folder beside `root` and renamed at the end, so
    several processes may call this at once, and a run that is killed leaves at most a hidden folder
    `.NAME.making-*` behind, which may be deleted.

    Args:
        root: Folder to make. It may exist if it is empty, or complete and made with the same seed.
        seed: Seed of all randomness, not negative.

    Raises:
        InputError: `root` is something else, can't be written, or the photographs are not installed.
    """
    if demo_data_is_made(root, seed=seed):
        return
    target = Path(root).expanduser().resolve()
    work = target.parent / f".{target.name}.making-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with writing_to(root):
            work.mkdir(parents=True)
            _write_all(work, seed)
            with suppress(OSError):
                target.rmdir()  # only an empty folder can go this way; not every system renames onto one
            try:
                work.rename(target)
            except OSError:
                if not demo_data_is_made(root, seed=seed):  # another process was first: its data is as good as ours
                    raise
        logger.info("demo data made: %s", target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def demo_data_is_made(root: str | os.PathLike[str], *, seed: int = 0) -> bool:
    """Whether the demo data of a seed is there, so that `make_demo_data` has nothing to do.

    Raises:
        InputError: If `root` is something else or cannot be read.
    """
    target = Path(root).expanduser().resolve()
    with writing_to(root):
        if not target.exists() or (target.is_dir() and not any(target.iterdir())):
            return False
    expected, advice = _manifest(seed), "delete it or choose another folder"
    try:
        manifest = parse_record((target / _MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{target} exists and contains no demo data (no valid {_MANIFEST}); {advice}") from error
    found = {folder: len(list((target / folder).glob("*.png"))) for folder in expected["counts"]}
    for key, value in {**expected, **manifest, "counts": found}.items():
        if value != expected.get(key):
            raise InputError(f"{target} contains demo data with {key} {value}, expected {expected.get(key)}; {advice}")
    return True


def _manifest(seed: int) -> dict[str, Any]:
    pairs = sum(len(photograph.crops) for photograph in PHOTOGRAPHS)
    counts = {"rainy": TILES, "clean": TILES, "val_rainy": pairs, "val_clean": pairs, "val_screen_rainy": pairs}
    return {"made_by": "nlcl_plugin demo data", "recipe": RECIPE, "seed": seed, "counts": counts}


def _write_all(root: Path, seed: int) -> None:
    """Write everything, the manifest last."""
    photographs = {photograph: _read_photograph(photograph) for photograph in PHOTOGRAPHS}
    rainy, clean = plan_tiles(seed)
    tiles = ((tile, _cut_tile(photographs[tile.photograph], tile)) for tile in rainy)
    _write_folder(root / "rainy", (blend(cut, _rain(TILE_SIDE, tile.stream)) for tile, cut in tiles))
    _write_folder(root / "clean", (_cut_tile(photographs[tile.photograph], tile) for tile in clean))

    truths = [
        image[top : top + CROP_SIDE, left : left + CROP_SIDE]
        for photograph, image in photographs.items()
        for top, left in photograph.crops
    ]
    # The seed changes the rain, not the places.
    layers = [_rain(CROP_SIDE, (seed, _VALIDATION, index)) for index in range(len(truths))]
    _write_folder(root / "val_clean", truths)
    for folder, mode in (("val_rainy", "additive"), ("val_screen_rainy", "screen")):
        _write_folder(root / folder, (blend(truth, rain, mode) for truth, rain in zip(truths, layers, strict=True)))

    (root / "LICENSES.txt").write_bytes(_licences().encode())
    (root / _MANIFEST).write_bytes((json.dumps(_manifest(seed), indent=2) + "\n").encode())


def _rain(side: int, stream: tuple[int, ...]) -> np.ndarray:
    return render_rain((side, side), np.random.default_rng(stream))


def _cut_tile(image: np.ndarray, tile: Tile) -> np.ndarray:
    cut = image[tile.top : tile.top + tile.side, tile.left : tile.left + tile.side, list(tile.channels)]
    small = cv2.resize(cut, (TILE_SIDE, TILE_SIDE), interpolation=cv2.INTER_AREA)
    altered = np.clip(small, 0.0, 1.0) ** np.float32(tile.gamma) * np.float32(tile.gain)
    return altered[:, ::-1] if tile.flip else altered


def _read_photograph(photograph: DemoPhotograph) -> np.ndarray:
    """Read a photograph out of scikit-image as float32 RGB in [0, 1]."""
    package = find_spec("skimage")
    if package is None or package.origin is None:
        raise InputError("demo data is cut from photographs in scikit-image: pip install scikit-image")
    path = Path(package.origin).parent / "data" / photograph.file
    image = read_image(path)
    if image.shape[:2] != (photograph.height, photograph.width):
        raise InputError(
            f"photograph {path} is {image.shape[1]}x{image.shape[0]}, expected {photograph.width}x{photograph.height}; "
            "install scikit-image 0.22 to 0.26"
        )
    return image


def _write_folder(folder: Path, images: Iterable[np.ndarray]) -> None:
    """Write float RGB images as 0001.png, 0002.png, ..."""
    folder.mkdir()
    for number, image in enumerate(images, 1):
        write_image(folder / f"{number:04d}.png", image)


def _licences() -> str:
    lines = [
        "The images in this folder are cut from photographs that come with scikit-image (https://scikit-image.org),",
        "altered in size, colour and brightness, with rain rendered by nlcl_plugin. Licences as scikit-image has them:",
        "",
    ]
    for photograph in PHOTOGRAPHS:
        lines += [
            photograph.file.split(".")[0],
            f"    source:  {photograph.source}",
            f"    licence: {photograph.licence}",
            f"    used in: {'validation' if photograph.crops else 'training'}",
        ]
    return "\n".join(lines) + "\n"
