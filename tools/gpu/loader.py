"""Whether a step waits for its images: with the loader of a training, and with one batch again and again."""

from benchmarks.machine import ratios, spread
from gpu import device
from gpu.rows import MEASURED, attempt, no_time, row
from gpu.training import build, make_images, paper, shortened, silence

from nlcl_plugin.config.option_files import write_options
from nlcl_plugin.training.launch import start
from nlcl_plugin.training.loaders import TrainingBatches

AHEAD = 2  # batches that each worker of a loader makes ahead


def measure(setting):
    """Yield the rows of this part."""
    images = setting.folder / "images"
    make_images(images, 64 if setting.tiny else 480, 8 if setting.tiny else 32)
    for batch in (1,) if setting.tiny else (1, 8):
        case = f"nlcl.yml in bf16 with channels_last, batch {batch}"
        if setting.fits(2 if setting.tiny else 20):
            yield attempt(case, _waiting, case, setting, images, batch)
        else:
            yield no_time(case)


def _waiting(case, setting, images, batch):
    options = shortened(paper(setting, amp="bf16", channels_last=True), images, 1000)
    data = options["datasets"]["train"]
    workers = data["num_worker_per_gpu"] = 0 if setting.tiny else 4
    data.update(batch_size_per_gpu=batch, gt_size=48 if setting.tiny else 256, dataset_enlarge_ratio=100)
    options["datasets"].pop("val")
    file = setting.folder / "loader.yml"
    write_options(str(file), options)
    with silence():
        batches = TrainingBatches(start(str(file), is_train=True, root=str(setting.folder)))
    model, steps = build(options), 1 if setting.tiny else 10
    place = [0]

    def step(images):
        place[0] += 1
        model.feed_data(images)
        model.optimize_parameters(place[0])

    again = batches.next()
    for _ in range(1 if setting.tiny else 3):
        step(again)
    sides = {"loader": lambda: step(batches.next()), "again": lambda: step(again)}
    taken = {name: [] for name in sides}
    for _ in range(1 if setting.tiny or setting.quick else 3):
        for _ in range(workers * AHEAD):  # what was made while the other side ran
            batches.next()
        for name, work in sides.items():
            taken[name].append(device.seconds(work, setting.device, steps))
    alone = device.seconds(batches.next, setting.device, steps)
    found = spread(ratios(taken["loader"], taken["again"]))
    text = (
        f"a step with the loader takes {found['ratio']:.2f} × ({found['low']:.2f}–{found['high']:.2f}) one with the "
        f"same batch; {batch / spread(taken['loader'])['ratio']:.1f} images/s, the loader alone with {workers} workers "
        f"{batch / alone:.1f}"
    )
    advice = "about 1; above 1.1 raise num_worker_per_gpu, or cut the images into an LMDB"
    return row(case, MEASURED, text, advice, **found)
