"""Generated images, the package's option files shortened, and models of them."""

import copy

import numpy as np
import torch

import nlcl_plugin  # noqa: F401  before BasicSR, which it mends

from basicsr.models import build_model  # isort: skip
from nlcl_plugin.config.option_files import load_yaml, packaged_option_files, without_nulls
from nlcl_plugin.config.rehearsal import silence
from nlcl_plugin.data.image_io import write_image
from nlcl_plugin.data.lmdb.create import create_lmdb
from nlcl_plugin.rain.renderer import blend, render_rain


def make_images(folder, side, count):
    """Write the folders that option files name: rainy, clean, two LMDBs of them, validation pairs and rain on black."""
    rng = np.random.default_rng(0)
    for number in range(count):
        for name in ("clean", "val_clean") if number < 2 else ("clean",):
            write_image(folder / name / f"{number}.png", _scene(side, rng))
        for name in ("rainy", "val_rainy", "val_screen_rainy") if number < 2 else ("rainy",):
            rain = render_rain((side, side), rng)
            write_image(folder / name / f"{number}.png", blend(_scene(side, rng), rain))
        write_image(folder / "rain" / f"{number}.png", np.repeat(rain[..., None], 3, axis=2))
    for name in ("rainy", "clean"):
        create_lmdb(folder / name, folder / f"{name}.lmdb")


def _scene(side, rng):
    """A smooth colourful image with a sensor's noise, float32 (side, side, 3) in [0, 1]."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    phase = rng.uniform(0, 6, (3, 1, 1))
    waves = 0.5 + 0.25 * np.sin(9 * rows + phase) + 0.15 * np.sin(23 * columns * (1 + rows) + 2 * phase)
    noisy = waves + rng.normal(0, 0.02, waves.shape)
    return noisy.clip(0, 1).transpose(1, 2, 0).astype(np.float32)


def trains():
    """Names of the option files of the package that train."""
    files = packaged_option_files().items()
    return [name for name, path in files if name.endswith(".yml") and "train" in load_yaml(str(path))]


def options_of(name, setting):
    """Options of a file of the package for one device, without data, weights of earlier trainings and checks of rain.

    Noise and the first iterations have no rain yet, and no training of real length begins from here.
    """
    options = without_nulls(load_yaml(str(packaged_option_files()[name])))
    options.update(num_gpu=0 if setting.device == "cpu" else 1, manual_seed=0)
    options.pop("demo_data", None)
    weights = options.get("path") or {}
    options["path"] = {key: value for key, value in weights.items() if value == "real"}
    if options["model_type"] == "NLCLModel":
        options["train"]["min_mean_rain"] = 0
    return options


def shortened(options, images, iterations):
    """The same for a whole training of some iterations on generated images; both stages and a round fit in."""
    options = copy.deepcopy(options)
    for block in options["datasets"].values():
        for key in [key for key, value in block.items() if key.startswith("dataroot_") and value]:
            name = block[key].rpartition("/")[2]
            block[key] = str(images / ("rain" if key == "dataroot_rain" else name))
    data, train = options["datasets"]["train"], options["train"]
    data["num_worker_per_gpu"] = 0 if options["num_gpu"] == 0 else min(data["num_worker_per_gpu"], 2)
    if data["num_worker_per_gpu"] == 0:
        data.pop("persistent_workers", None)
    train["total_iter"] = iterations
    restorer = train.get("restorer_opt")
    if restorer and restorer["start_iter"]:
        restorer["start_iter"] = iterations // 2
        if "rounds" in restorer:
            restorer["rounds"] = [1]
    options["val"] = {**options.get("val", {}), "val_freq": iterations, "save_img": False}
    options["logger"] = {"print_freq": 1, "save_checkpoint_freq": iterations, "use_tb_logger": False}
    return options


def build(options, *, rank=0, processes=1):
    """A model of options, in training; equal options give equal weights."""
    options = copy.deepcopy(options)
    options.update(dist=processes > 1, rank=rank, world_size=processes, is_train=True)
    torch.manual_seed(0)
    with silence():
        return build_model(options)


def paper(setting, **train):
    """Options of nlcl.yml with changes of its `train` block; on a CPU with small networks and a small search window."""
    options = options_of("nlcl.yml", setting)
    options["train"].update(train)
    if setting.tiny:
        for label in ("g", "r"):
            options[f"network_{label}"].update(num_feat=8, num_block=2)
        options["network_d"]["num_feat"] = options["network_p"]["num_feat"] = 8
        options["train"]["location_opt"]["sampling"].update(taps=[0, 2], num_patches=32)
        options["train"]["layer_opt"]["sampling"].update(search_size=14, num_rain_patches=32)
    return options


def noise(batch, crop, seed=0):
    """A batch of noise, for what does not depend on content."""
    images = torch.rand(2, batch, 3, crop, crop, generator=torch.Generator().manual_seed(seed))
    return {"lq": images[0], "gt": images[1], "lq_path": ["noise"] * batch}
