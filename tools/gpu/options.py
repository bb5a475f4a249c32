"""Every option file that trains, shortened, on generated images: loader, both stages, validation, checkpoint."""

import json
import math
import time
import warnings

from gpu import device
from gpu.rows import NOT_RUN, attempt, check, no_time, row
from gpu.training import make_images, options_of, shortened, silence, trains

from nlcl_plugin.training.run import train

QUICK = ("nlcl.yml", "nlcl_best.yml", "nlcl_real.yml", "mix_nlcl_esrgan.yml")
TINY = ("nlcl_quickstart.yml", "restorer_from_bank.yml")


def measure(setting):
    """Yield the rows of this part."""
    images = setting.folder / "images"
    make_images(images, 64 if setting.tiny else 256, 8)
    for name in trains():
        if (setting.tiny and name not in TINY) or (setting.quick and name not in QUICK):
            yield row(name, NOT_RUN, "a CPU runs two of them, to test this tool" if setting.tiny else "--quick")
        elif not setting.fits(5 if setting.tiny else 10):
            yield no_time(name)
        else:
            yield attempt(name, _trained, name, setting, images)
            device.free(setting.device)


def _trained(name, setting, images):
    iterations = 2 if setting.tiny else 4
    options = shortened(options_of(name, setting), images, iterations)
    if setting.tiny:
        options["datasets"]["train"].update(batch_size_per_gpu=1, gt_size=48)
    start = time.time()
    with silence(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = train(options, root=setting.folder)
    lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    values = [value for line in lines for value in line.values()]
    finite = all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    text = f"{len(lines)} iterations in {time.time() - start:.1f} s with start and validation, losses finite: {finite}"
    return check(name, len(lines) == iterations and finite, text, f"{iterations} iterations, finite losses")
