"""One step on the CPU and on the device: losses, gradients, neighbours; half precision against fp32."""

from unittest.mock import patch

import torch
from gpu import device
from gpu.rows import check, no_time, within
from gpu.training import build, noise, options_of, paper

from nlcl_plugin.models import layer_embeddings

# Kernels add in another order. On a CPU, at a crop of 64, the same step in fp32 and in fp64 differed by 2.4e-7 in a
# loss and by 5.4e-4 of the norm of a gradient, which passes through all layers of both generators.
LOSS, GRADIENT = 1e-4, 1e-2
# Largest error of a loss, least cosine of a gradient. bf16 keeps 8 bits of a number and fp16 11. On a CPU, at a crop of
# 64, losses were off by 1.3e-3 and 5.7e-4, and the cosines at least 0.980 and 0.998.
HALF = {"bf16": (0.02, 0.9), "fp16": (0.01, 0.98)}


def measure(setting):
    """Yield the rows of this part."""
    crop = 48 if setting.tiny else 128
    with device.exact():
        for case, options in _cases(setting):
            if not setting.fits(2 if setting.tiny else 15):
                yield no_time(case)
                continue
            wanted = step({**options, "num_gpu": 0}, "cpu", crop)
            found = step(options, setting.device, crop)
            yield from _compared(case, found, wanted)
            if case == "nlcl.yml":
                yield _neighbours(found["searches"])
                yield from _half(setting, found, crop)


def _cases(setting):
    yield "nlcl.yml", paper(setting)
    quick = options_of("nlcl_quickstart.yml", setting)
    yield "nlcl_quickstart.yml", quick
    quick = options_of("nlcl_quickstart.yml", setting)
    quick["train"]["restorer_opt"]["start_iter"] = 0
    yield "nlcl_quickstart.yml, stage 2", quick


def step(options, where, crop):
    """Losses, gradients of each network as one vector on the CPU, and the searches, of the first step."""
    model = build(options)
    if model.stepper.scales:  # torch begins so high that the first steps are left out
        model.stepper.scaler = torch.amp.GradScaler(where, init_scale=256.0)
    searches = []
    search = layer_embeddings.nonlocal_neighbours

    def remembered(features, queries, **sizes):
        searches.append((features, queries, sizes, search(features, queries, **sizes)))
        return searches[-1][-1]

    model.feed_data(noise(2, crop))
    with patch.object(layer_embeddings, "nonlocal_neighbours", remembered):
        model.optimize_parameters(1)
    gradients = {}
    for label, net in model.nets.items():
        parts = [p.grad.detach().flatten().cpu() for p in net.parameters() if p.grad is not None]
        if parts:
            gradients[f"net_{label}"] = torch.cat(parts).double()
    return {"losses": dict(model.log_dict), "gradients": gradients, "searches": searches}


def _compared(case, found, wanted):
    off = {name: _relative(found["losses"][name], value) for name, value in wanted["losses"].items()}
    worst = max(off, key=off.get)
    text = f"{len(off)} losses, {worst} is off by {off[worst]:.1e}"
    yield check(f"{case}: losses", within(off, LOSS), text, f"≤ {LOSS}, relative", off=off)
    off = {
        name: float((found["gradients"][name] - value).norm() / value.norm().clamp(min=1e-12))
        for name, value in wanted["gradients"].items()
    }
    worst = max(off, key=off.get)
    text = f"{', '.join(off)}; {worst} is off by {off[worst]:.1e}"
    yield check(f"{case}: gradients", within(off, GRADIENT), text, f"≤ {GRADIENT} of the norm", off=off)


def _neighbours(searches):
    """The device's searches again on the CPU, on the same features."""
    same = 0
    for features, queries, sizes, (centres, distances) in searches:
        places, values = layer_embeddings.nonlocal_neighbours(features.cpu(), queries.cpu(), **sizes)
        near = torch.allclose(distances.cpu(), values, rtol=1e-5, atol=1e-6)
        same += near and torch.equal(centres.cpu(), places)
    return check(
        "nlcl.yml: neighbours", same == len(searches) > 0, f"{same} of {len(searches)} searches equal", "all, exactly"
    )


def _half(setting, full, crop):
    for name, (loss, cosine) in HALF.items():
        found = step(paper(setting, amp=name), setting.device, crop)
        off = {key: _relative(found["losses"][key], value) for key, value in full["losses"].items()}
        alike = {
            key: float(torch.nn.functional.cosine_similarity(found["gradients"][key], value, dim=0))
            for key, value in full["gradients"].items()
        }
        worst, least = max(off, key=off.get), min(alike, key=alike.get)
        good = within(off, loss) and all(value >= cosine for value in alike.values())
        text = f"{worst} is off by {off[worst]:.1e}, the gradient of {least} has a cosine of {alike[least]:.4f}"
        yield check(f"nlcl.yml: {name} against fp32", good, text, f"≤ {loss}, ≥ {cosine}", off=off, cosines=alike)


def _relative(value, wanted):
    """Difference relative to the size, or to 1 where that is less."""
    return abs(value - wanted) / max(abs(wanted), 1.0)
