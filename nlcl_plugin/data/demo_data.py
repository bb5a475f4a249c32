"""Demonstration data, made on the spot from photographs that every installation has: no download, no pairs needed.

The photographs lie inside the scikit-image package, which BasicSR installs. They are read by path, because the
functions of `skimage.data` may download. Only photographs that scikit-image documents as public domain or CC0 are used:

| photograph | source | licence | used for |
|---|---|---|---|
| astronaut | NASA Great Images, flic.kr/p/r9qvLn | public domain (NASA) | training |
| coffee | Rachel Michetti, Pikolo Espresso Bar | CC0 | training |
| rocket | SpaceX, flickr.com/photos/spacexphotos/16511594820 | public domain (SpaceX) | training |
| chelsea | Stefan van der Walt | CC0 | validation |
| camera | Lav Varshney | CC0 | validation |

Left out: the stereo pair `motorcycle`, `moon` and `page` (no licence is stated); `coins` and `ihc` ("no known
restrictions" names no licence); `brick`, `grass` and `gravel` (CC0, but their thin pale joints, blades and edges look
like rain and would be in the clean images: in trials grass and gravel cost 1.4 dB, gravel alone 0.4 dB, which is about
the spread between seeds); `hubble`, `clock`, `retina` and `microaneurysms` (free, but nothing like a photograph taken
in rain).

**Training.** Each training photograph is cut into quarters. One diagonal pair of them feeds the rainy tiles, the other
pair the clean ones, alternating by photograph. So no rainy pixel has a clean counterpart, yet both sides show the same
kind of content. The latter matters: where the clean side is smoother or darker by chance, a discriminator learns that,
not rain. In trials with a small network (350 iterations, two seeds) left and right halves gave +0.5 dB over the rainy
images, diagonal quarters +5.1 dB. These choices were made on the validation images below.

**Validation.** Aligned pairs of photographs that training never sees: one with colour and fur, one with a person,
buildings and grass. Two, because the crops of one photograph are much alike; the second costs training little, as it
is grey. All figures on these few crops are for demonstration.

Rain is rendered by `nlcl_plugin.rain.renderer`.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from nlcl_plugin.data.image_io import read_image, write_image
from nlcl_plugin.errors import InputError
from nlcl_plugin.rain.renderer import blend, render_rain

__all__ = ["PHOTOGRAPHS", "Crop", "DemoPhotograph", "Tile", "make_demo_data", "plan_tiles", "plan_validation"]

logger = logging.getLogger(__name__)

RECIPE = 1
"""Version of the recipe. Any change of what is made, however small, needs a new one."""

TILES = 300
"""Number of rainy tiles, and of clean ones."""

TILE_SIDE = 128
CROP_SIDE = 144  # of a validation image: a multiple of 16, so that no network has to pad

_MAKER = "nlcl_plugin demo data"
_MANIFEST = "manifest.json"
_RAINY, _CLEAN, _VALIDATION = 0, 1, 2  # streams of random numbers


@dataclass(frozen=True)
class DemoPhotograph:
    """A photograph inside scikit-image.

    Attributes:
        name: What scikit-image calls it.
        file: File name in the data folder of scikit-image.
        height: Pixels.
        width: Pixels.
        source: Author or origin.
        licence: As documented by scikit-image.
        crops: Top left corners (y, x) of its validation crops; none for a training photograph.
    """

    name: str
    file: str
    height: int
    width: int
    source: str
    licence: str
    crops: tuple[tuple[int, int], ...] = ()


PHOTOGRAPHS = (
    DemoPhotograph(
        "astronaut", "astronaut.png", 512, 512, "NASA Great Images, https://flic.kr/p/r9qvLn", "public domain (NASA)"
    ),
    DemoPhotograph("coffee", "coffee.png", 400, 600, "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0"),
    DemoPhotograph(
        "rocket",
        "rocket.jpg",
        427,
        640,
        "SpaceX, https://www.flickr.com/photos/spacexphotos/16511594820",
        "public domain (SpaceX)",
    ),
    DemoPhotograph(
        "chelsea",
        "chelsea.png",
        300,
        451,
        "Stefan van der Walt",
        "CC0",
        crops=tuple((y, x) for y in (0, 156) for x in (0, 153, 307)),
    ),
    DemoPhotograph(
        "camera",
        "camera.png",
        512,
        512,
        "Lav Varshney",
        "CC0",
        crops=tuple((y, x) for y in (100, 244) for x in (80, 224, 368)),  # below the flat sky, above the flat coat
    ),
)


@dataclass(frozen=True)
class Tile:
    """How one training tile is cut and altered.

    Attributes:
        photograph: Where it is cut from.
        top: First row of the square cut.
        left: First column of it.
        side: Its side, pixels, before it is resized to `TILE_SIDE`.
        channels: Order of the colour channels.
        gamma: Exponent applied to the values in [0, 1].
        gain: Factor applied after that.
        flip: Whether it is mirrored left to right.
        stream: Seed words of its rain layer.
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


@dataclass(frozen=True)
class Crop:
    """Where one validation image is cut: `CROP_SIDE` pixels in square, unaltered."""

    photograph: DemoPhotograph
    top: int
    left: int
    stream: tuple[int, ...]


def plan_tiles(seed: int = 0) -> tuple[list[Tile], list[Tile]]:
    """Decides, without reading a photograph, how each training tile is cut.

    Args:
        seed: Seed of the data.

    Returns:
        The rainy tiles and the clean tiles.
    """
    photographs = [photograph for photograph in PHOTOGRAPHS if not photograph.crops]
    plans = []
    for purpose in (_RAINY, _CLEAN):
        tiles = []
        for index in range(TILES):
            which = index % len(photographs)
            photograph = photographs[which]
            height, width = photograph.height // 2, photograph.width // 2
            row = index // len(photographs) % 2
            column = (row + which + purpose) % 2
            stream = (seed, purpose, index)
            rng = np.random.default_rng([*stream, 0])
            side = int(TILE_SIDE * rng.uniform(1.0, min(1.8, height / TILE_SIDE, width / TILE_SIDE)))
            tiles.append(
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
        plans.append(tiles)
    return plans[_RAINY], plans[_CLEAN]


def plan_validation(seed: int = 0) -> list[Crop]:
    """Decides where each validation image is cut.

    Args:
        seed: Seed of the data; it changes the rain, not the places.

    Returns:
        One entry an image.
    """
    places = [(photograph, top, left) for photograph in PHOTOGRAPHS for top, left in photograph.crops]
    return [Crop(*place, stream=(seed, _VALIDATION, index)) for index, place in enumerate(places)]


def make_demo_data(root: str | os.PathLike[str], *, seed: int = 0) -> None:
    """Makes the demonstration data, unless it is there already.

    `root` then holds the folders `rainy` and `clean` (training, unpaired), `val_clean`, `val_rainy` (rain added) and
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
    target = Path(root).expanduser().resolve()
    if seed < 0:
        raise InputError(f"seed of the demo data is {seed}, expected 0 or more")
    try:
        if _is_made(target, seed):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        work = target.parent / f".{target.name}.making-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            work.mkdir()
            _write_all(work, seed)
            with suppress(OSError):
                target.rmdir()  # only an empty folder can go this way; not every system renames onto one
            try:
                work.rename(target)
            except OSError:
                if not _is_made(target, seed):  # another process was first: its data is as good as ours
                    raise
            else:
                logger.info("demo data made: %s", target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise InputError(f"demo data can't be made in {target} ({error}); choose a folder you can write to") from error


def demo_data_is_made(root: str | os.PathLike[str], *, seed: int = 0) -> bool:
    """Whether `make_demo_data` would find its work done.

    Args:
        root: The folder.
        seed: Seed of all randomness.

    Raises:
        InputError: If `root` is something else or cannot be read.
    """
    try:
        return _is_made(Path(root).expanduser().resolve(), seed)
    except (OSError, RuntimeError) as error:
        raise InputError(f"demo data can't be made in {root!r} ({error}); choose a folder you can write to") from error


def _contents(seed: int) -> dict[str, object]:
    """What the manifest of complete data says."""
    pairs = len(plan_validation(seed))
    counts = {"rainy": TILES, "clean": TILES, "val_rainy": pairs, "val_clean": pairs, "val_screen_rainy": pairs}
    return {"made_by": _MAKER, "recipe": RECIPE, "seed": seed, "counts": counts}


def _is_made(target: Path, seed: int) -> bool:
    """Whether the data is there; raises an error where something else is."""
    if not target.exists():
        return False
    advice = "delete it or choose another folder"
    if not target.is_dir():
        raise InputError(f"demo data can't be made: {target} is a file; {advice}")
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not any(target.iterdir()):
            return False
        raise InputError(f"{target} exists and holds no demo data (no {_MANIFEST}); {advice}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{target} exists and its {_MANIFEST} can't be read ({error}); {advice}") from error
    if not isinstance(manifest, dict) or manifest.get("made_by") != _MAKER:
        raise InputError(f"{target} exists and was made by something else; {advice}")
    expected = _contents(seed)
    for key in ("recipe", "seed", "counts"):
        if manifest.get(key) != expected[key]:
            raise InputError(
                f"{target} holds demo data with {key} {manifest.get(key)}, expected {expected[key]}; {advice}"
            )
    for folder, count in expected["counts"].items():  # type: ignore[attr-defined]
        found = sum(1 for _ in (target / folder).glob("*.png"))
        if found != count:
            raise InputError(f"{target / folder} holds {found} images, expected {count}: incomplete; delete {target}")
    return True


def _write_all(root: Path, seed: int) -> None:
    """Writes everything, the manifest last."""
    photographs = {photograph.name: _read_photograph(photograph) for photograph in PHOTOGRAPHS}
    rainy, clean = plan_tiles(seed)
    _write_folder(root / "rainy", (_rainy_tile(photographs[tile.photograph.name], tile) for tile in rainy))
    _write_folder(root / "clean", (_cut_tile(photographs[tile.photograph.name], tile) for tile in clean))

    crops = plan_validation(seed)
    truths = [
        photographs[crop.photograph.name][crop.top : crop.top + CROP_SIDE, crop.left : crop.left + CROP_SIDE]
        for crop in crops
    ]
    layers = [render_rain((CROP_SIDE, CROP_SIDE), np.random.default_rng(crop.stream)) for crop in crops]
    _write_folder(root / "val_clean", iter(truths))
    for folder, mode in (("val_rainy", "additive"), ("val_screen_rainy", "screen")):
        _write_folder(root / folder, (blend(truth, rain, mode) for truth, rain in zip(truths, layers, strict=True)))

    (root / "LICENSES.txt").write_bytes(_licences().encode())
    (root / _MANIFEST).write_bytes((json.dumps(_contents(seed), indent=2) + "\n").encode())


def _cut_tile(image: np.ndarray, tile: Tile) -> np.ndarray:
    """Cuts and alters a tile."""
    cut = image[tile.top : tile.top + tile.side, tile.left : tile.left + tile.side, list(tile.channels)]
    small = cv2.resize(cut, (TILE_SIDE, TILE_SIDE), interpolation=cv2.INTER_AREA)
    altered = np.clip(small, 0.0, 1.0) ** np.float32(tile.gamma) * np.float32(tile.gain)
    return altered[:, ::-1] if tile.flip else altered


def _rainy_tile(image: np.ndarray, tile: Tile) -> np.ndarray:
    """A tile under its own rain."""
    return blend(_cut_tile(image, tile), render_rain((TILE_SIDE, TILE_SIDE), np.random.default_rng(tile.stream)))


def _read_photograph(photograph: DemoPhotograph) -> np.ndarray:
    """Reads a photograph out of scikit-image as float32 RGB in [0, 1]."""
    try:
        import skimage
    except ImportError as error:
        raise InputError("demo data is cut from photographs in scikit-image: pip install scikit-image") from error
    path = Path(os.path.dirname(skimage.__file__)) / "data" / photograph.file
    if not path.is_file():
        raise InputError(f"photograph {path} is missing; reinstall scikit-image from its wheel")
    image = read_image(path)
    if image.shape[:2] != (photograph.height, photograph.width):
        raise InputError(
            f"photograph {path} is {image.shape[1]}x{image.shape[0]}, expected {photograph.width}x{photograph.height}; "
            "install scikit-image 0.22 to 0.26"
        )
    return image


def _write_folder(folder: Path, images: Iterator[np.ndarray]) -> None:
    """Writes float RGB images as 0001.png, 0002.png, ..."""
    folder.mkdir()
    for number, image in enumerate(images, 1):
        write_image(folder / f"{number:04d}.png", image)


def _licences() -> str:
    """Text of LICENSES.txt."""
    lines = [
        "The images in this folder are cut from photographs that come with scikit-image (https://scikit-image.org),",
        "altered in size, colour and brightness, with rain rendered by nlcl_plugin. Licences as scikit-image has them:",
        "",
    ]
    for photograph in PHOTOGRAPHS:
        use = "validation" if photograph.crops else "training"
        lines += [
            photograph.name,
            f"    source:  {photograph.source}",
            f"    licence: {photograph.licence}",
            f"    used in: {use}",
        ]
    return "\n".join(lines) + "\n"
