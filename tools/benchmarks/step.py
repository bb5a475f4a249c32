"""A training step in the paper's setting against the released code's, and what makes it faster."""

import random
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
import torch.nn.functional as F
from benchmarks.machine import alternate, convolution_rate, ratios, seconds, spread
from benchmarks.own_process import call, peak_mb
from benchmarks.reference import ReferenceStep, loop_search, masked_patch_nce, masked_supcon

ROUNDS = 3
OPTIONS = Path(__file__).resolve().parents[2] / "options" / "nlcl.yml"
SMALL = 18  # side of the search window with --small; 256 places must fit
# What is switched on, by name; the first is what the others are compared with.
VARIANTS = {
    "fp32": {},
    "channels_last": {"channels_last": True},
    "bf16": {"amp": "bf16"},
    "bf16, channels_last": {"amp": "bf16", "channels_last": True},
    "network_g and network_r with checkpointing": {"checkpointing": True},
    "bf16, channels_last, compiled": {"amp": "bf16", "channels_last": True, "compile": True},
}


def add_arguments(parser):
    """Options of this part."""
    gpu = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=gpu, choices=("cpu", "cuda"), help="(default: %(default)s)")
    parser.add_argument("--crop", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--batch-crop", type=int, help="crop of batch 8 against 1 (default: 128 on a CPU, else --crop)")
    parser.add_argument("--small", action="store_true", help="a small search window, to see whether it works")
    parser.add_argument(
        "--only", nargs="*", choices=("paper", "batch", "switches"), default=["paper", "batch", "switches"],
        help="what to measure (default: all); the paper's setting takes the reference 22 GB of memory",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compile too (minutes on a CPU; always on a GPU)")


def measure(folder, arguments):
    """Yield the rows of this part."""
    setting = {"device": arguments.device, "crop": arguments.crop, "small": arguments.small}
    call("step:agree", **setting)
    if "paper" in arguments.only:
        yield from _paper(setting, arguments.rounds)
    if "batch" in arguments.only:
        crop = arguments.batch_crop or (128 if arguments.device == "cpu" else arguments.crop)
        for kept in (True, False) if arguments.device == "cpu" else (True,):
            sides = {**setting, "crop": crop, "keep_memory": kept}
            found = call("step:batches", **sides, rounds=arguments.rounds)
            case = f"batch 8 against 1, crop {crop}, {arguments.device}{'' if kept else ', freed memory given back'}"
            text = f"{case}: {found['ratio']:.2f} × the images a second"
            yield {"part": "step", "case": case, **found, "text": text}
    if "switches" in arguments.only:
        yield from _switches(setting, arguments.rounds, arguments.compile or arguments.device != "cpu")


def _paper(setting, rounds):
    """Ours and the reference in turn, each in a process of its own."""
    ours, theirs = [], []
    for _ in range(rounds):
        theirs.append(call("step:run_reference", **setting))
        ours.append(call("step:run_ours", **setting))
    found = spread(ratios([run["seconds"] for run in theirs], [run["seconds"] for run in ours]))
    above = median(run["seconds"] / run["floor"] for run in ours)
    share = median(run["search"] for run in ours)
    peaks = [max(run["peak_mb"] for run in side) for side in (ours, theirs)]
    case = f"paper-{setting['crop']}-b1-{setting['device']}" + ("-small" if setting["small"] else "")
    yield {
        "part": "step",
        "case": case,
        **found,
        "peak_mb": peaks[0],
        "reference_peak_mb": peaks[1],
        "floor_ratio": above,
        "seconds": median(run["seconds"] for run in ours),
        "search_share": share,
        "text": f"{case}: {median(run['seconds'] for run in ours):.2f} s, {found['ratio']:.1f} × the released way, "
        f"{above:.1f} × its FLOPs at the rate of a 3×3 convolution; {peaks[0]:.0f} against {peaks[1]:.0f} MB; "
        f"the search takes {share:.1%} of it",
    }


def _switches(setting, rounds, compiled):
    names = [name for name in VARIANTS if compiled or "compile" not in VARIANTS[name]]
    runs = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            runs[name].append(call("step:run_ours", **setting, switches=VARIANTS[name]))
    plain = [run["seconds"] for run in runs["fp32"]]
    for name in names[1:]:
        found = spread(ratios(plain, [run["seconds"] for run in runs[name]]))
        case = f"{name} against fp32, crop {setting['crop']}, batch 1, {setting['device']}"
        peaks = [max(run["peak_mb"] for run in runs[side]) for side in (name, "fp32")]
        yield {
            "part": "step",
            "case": case,
            **found,
            "peak_mb": peaks[0],
            "reference_peak_mb": peaks[1],
            "text": f"{case}: {found['ratio']:.2f} × as fast; {peaks[0]:.0f} against {peaks[1]:.0f} MB",
        }


def build(device, small=False, switches=None, keep_memory=True):
    """The model of options/nlcl.yml; by default freed memory is kept, as `basicsr train` does on a CPU."""
    import nlcl_plugin  # noqa: F401  before BasicSR, which it mends

    from basicsr.models import build_model  # isort: skip
    from nlcl_plugin.config.option_files import load_yaml
    from nlcl_plugin.training.memory import keep_freed_memory

    if device == "cpu" and keep_memory:
        keep_freed_memory()
    options = load_yaml(str(OPTIONS))
    options.update(num_gpu=0 if device == "cpu" else 1, dist=False, rank=0, world_size=1, is_train=True)
    switches = dict(switches or {})
    for label in ("g", "r"):
        options[f"network_{label}"]["checkpointing"] = switches.get("checkpointing", False)
    switches.pop("checkpointing", None)
    options["train"].update(switches, min_mean_rain=0)
    if small:
        options["train"]["layer_opt"]["sampling"].update(search_size=SMALL)
    torch.manual_seed(0)
    return build_model(options)


def _images(batch, crop):
    noise = torch.rand(2, batch, 3, crop, crop, generator=torch.Generator().manual_seed(0))
    return {"lq": noise[0], "gt": noise[1], "lq_path": ["noise"] * batch}


def run_ours(device, crop, small, batch=1, switches=None, steps=3):
    """Seconds of a step, its floor, the share of the search, and the largest memory; run in a process of its own."""
    from torch.utils.flop_counter import FlopCounterMode

    from nlcl_plugin.models import layer_embeddings

    model = build(device, small, switches)
    model.feed_data(_images(batch, crop))
    searching = []
    search = layer_embeddings.nonlocal_neighbours

    def timed(*args, **kwargs):
        found = []
        searching.append(seconds(lambda: found.extend(search(*args, **kwargs)), device))
        return tuple(found)

    model.optimize_parameters(1)  # a warm-up
    with patch.object(layer_embeddings, "nonlocal_neighbours", timed):
        times = [seconds(lambda i=i: model.optimize_parameters(i), device) for i in range(2, 2 + steps)]
    peak = peak_mb(device)
    counter = FlopCounterMode(display=False)
    if not (switches or {}).get("compile"):
        with counter:
            model.optimize_parameters(2 + steps)
    return {
        "seconds": median(times),
        "search": sum(searching) / sum(times),
        "floor": counter.get_total_flops() / convolution_rate(device),
        "peak_mb": peak,
    }


def run_reference(device, crop, small):
    """The same of the reference; a single step where it takes long."""
    step = ReferenceStep(device, search=SMALL if small else 40)
    images = _images(1, crop)
    rainy, clean = images["lq"].to(device), images["gt"].to(device)
    torch.manual_seed(0)
    random.seed(0)
    taken = [seconds(lambda: step(rainy, clean), device)]
    if taken[0] < 10:  # then a warm-up matters
        taken = [seconds(lambda: step(rainy, clean), device) for _ in range(2)]
    return {"seconds": median(taken), "peak_mb": peak_mb(device)}


def batches(device, crop, small, rounds, keep_memory=True):
    """Images a second in a batch of 8 over those of a batch of 1, in turn."""
    sides = {}
    for batch in (1, 8):
        model = build(device, small, keep_memory=keep_memory)
        model.feed_data(_images(batch, crop))
        sides[batch] = lambda model=model: model.optimize_parameters(1)
    times = alternate(sides, rounds, device)
    return spread([8 * value for value in ratios(times[1], times[8])])


def agree(device, crop, small):
    """Search and losses are the reference's at the same inputs, in the model itself, or this fails."""
    from nlcl_plugin.models import layer_embeddings

    model = build(device, small)
    losses, compared = model.losses, {"layer": [], "location": []}
    searches = []
    search = layer_embeddings.nonlocal_neighbours

    def remembered(features, queries, **sizes):
        found = search(features, queries, **sizes)
        searches.append((features, queries, sizes, found))
        return found

    losses.cri_layer.register_forward_hook(lambda _, args, out: compared["layer"].append((args, out)))
    losses.cri_location.register_forward_hook(lambda _, args, out: compared["location"].append((args, out)))
    model.feed_data(_images(1, crop))
    with patch.object(layer_embeddings, "nonlocal_neighbours", remembered):
        model.optimize_parameters(1)
    for features, queries, sizes, (centres, distances) in searches:
        side, window, k = sizes["patch_size"], sizes["search_size"], sizes["k"]
        places, values = loop_search(features, queries[0, 0].tolist(), k, side, window)
        _same("distances of neighbours", distances[0, 0], values)
        _same("neighbours", {*map(tuple, centres[0, 0].tolist())}, {*map(tuple, places.tolist())})
    (image, rain), value = compared["layer"][0]
    pairs = zip(image, rain, strict=True)
    _same("layer contrast", value, sum(masked_supcon(b[0], r[0]) for b, r in pairs) / len(image))
    (queries, keys), _ = compared["location"][0]
    ours = type(losses.cri_location)(negatives="random")(queries, keys)
    items = [(q[i], k[i]) for q, k in zip(queries, keys, strict=True) for i in range(len(q))]
    _same("location contrast", ours, sum(masked_patch_nce(q, k) for q, k in items) / len(items))
    judged = torch.randn(1, 1, 9, 9, device=device)
    _same("adversarial loss", losses.cri_gan(judged, True), (judged - 1).square().mean())
    b, r, o = (torch.rand(1, 3, 9, 9, device=device) for _ in range(3))
    _same("consistency", losses.cri_consistency(b + r, o), F.mse_loss(b + r, o))
    _same("fidelity", losses.cri_fidelity(b, o), 0.1 * F.l1_loss(b, o))
    return True


def _same(what, ours, wanted):
    if isinstance(ours, set):
        agrees = ours == wanted
    else:
        agrees = torch.allclose(ours, wanted, rtol=1e-3, atol=1e-4)
    if not agrees:
        raise RuntimeError(f"{what}: ours is {ours}, the reference's {wanted}")
