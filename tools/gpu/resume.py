"""A training of 2 N iterations against one that is resumed after N, bit for bit, with `deterministic: true`."""

import contextlib
import io
import shutil
import warnings

import torch
from gpu.rows import attempt, check, no_time
from gpu.training import make_images, options_of, paper, shortened, silence

from nlcl_plugin.training.run import train


def measure(setting):
    """Yield the rows of this part."""
    images = setting.folder / "images"
    make_images(images, 64 if setting.tiny else 160, 8)
    half = 1 if setting.tiny else 5
    files = {"nlcl_quickstart.yml": options_of("nlcl_quickstart.yml", setting), "nlcl.yml": paper(setting)}
    for name, options in files.items():
        if setting.tiny and name == "nlcl.yml":
            continue
        case = f"{name}, {half} + {half} iterations"
        if setting.fits(2 if setting.tiny else 20):
            yield attempt(case, _resumed, case, shortened(options, images, 2 * half), setting, half)
        else:
            yield no_time(case)


def _resumed(case, options, setting, half):
    options["deterministic"] = True
    options["logger"]["save_checkpoint_freq"] = half
    if setting.tiny:
        options["datasets"]["train"].update(batch_size_per_gpu=1, gt_size=48)
    roots = [setting.folder / f"{options['name']}_{kind}" for kind in ("whole", "resumed")]
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    try:
        # BasicSR prints where it resumes from.
        with silence(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            whole = train(options, root=roots[0])
            states = whole / "training_states"
            wanted = _contents(whole, 2 * half)
            shutil.copytree(whole, roots[1] / whole.relative_to(roots[0]))
            resumed = roots[1] / states.relative_to(roots[0])
            for path in [*resumed.glob(f"{2 * half}.*"), *resumed.parent.glob(f"models/*_{2 * half}.*")]:
                path.unlink()
            kept = resumed / f"{half}.state"
            before_resuming = kept.stat().st_mtime_ns
            train(options, root=roots[1], auto_resume=True)
            continued = kept.is_file() and kept.stat().st_mtime_ns == before_resuming  # not begun anew
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
    found = _contents(roots[1] / whole.relative_to(roots[0]), 2 * half)
    differing = sorted(name for name, value in wanted.items() if name not in found or not same(found[name], value))
    text = f"{len(wanted)} files, differing: {', '.join(differing) or 'none'}{'' if continued else '; begun anew'}"
    return check(case, bool(wanted) and not differing and continued, text, "weights and optimizers equal bit for bit")


def _contents(folder, iteration):
    """Networks and training state of an iteration, by file; without what says when and where they were made."""
    files = [folder / "training_states" / f"{iteration}.state", *folder.glob(f"models/net_*_{iteration}.pth")]
    found = {}
    for path in files:
        content = torch.load(path, map_location="cpu", weights_only=False)  # written a moment ago by this program
        kept = ("optimizers", "schedulers", "params", "params_ema", "model")
        found[path.name] = {key: content[key] for key in kept if key in content}
    return found


def same(a, b):
    """Whether nested values are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
