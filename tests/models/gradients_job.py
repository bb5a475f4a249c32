"""Gradients and logs of one training step on this process's share of a batch; run by test_distributed_gradients."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from model_helpers import ADAM, batch, build, options

OFF = {"gan_opt": None, "location_opt": None, "layer_opt": None, "identity_opt": None}
OFF |= {"fidelity_opt": None, "relay_opt": None}
SMALL = {"taps": [0, 2], "num_patches": 16}
GAN = {"gan_opt": {"type": "GANLoss", "gan_type": "lsgan"}}
LAYER = {
    **GAN,
    "layer_opt": {
        "type": "AsymmetricNLCLLoss",
        "sampling": {"taps": [0, 2, 5], "num_queries": 2, "num_image_patches": 4, "num_rain_patches": 6}
        | {"patch_size": 8, "search_size": 16},
    },
}
LOCATION = {"location_opt": {"type": "LocationContrastLoss", "sampling": SMALL}}
GATHERED_LAYER = {**GAN, "layer_opt": {**LAYER["layer_opt"], "gather_negatives": True}}
GATHERED_LOCATION = {"location_opt": {**LOCATION["location_opt"], "gather_negatives": True}}
COMPOSITE = {
    "composite_opt": {
        **{"type": "AsymmetricNLCLLoss", "form": "single", "temperature": 0.02},
        "sampling": {"num_queries": 4, "num_positives": 2, "num_negatives": 2, "search_size": 16},
    }
}
RESTORER = {"restorer_opt": {"start_iter": 0, "gain": [0.7, 1.3]}, "optim_s": ADAM}
# name: (decomposition, changes of the train block)
CASES = {
    "gan": ("residual", {**OFF, **GAN}),
    "location": ("residual", {**OFF, **LOCATION}),
    "location without clean": (
        "residual",
        {**OFF, "location_opt": {**LOCATION["location_opt"], "sampling": {**SMALL, "on_clean": False}}},
    ),
    "layer": ("residual", {**OFF, **LAYER}),
    "identity": ("residual", {**OFF, "identity_opt": {"type": "L1Loss"}}),
    "fidelity": ("residual", {**OFF, "fidelity_opt": {"type": "L1Loss"}}),
    "relay": ("residual", {**OFF, "relay_opt": {"type": "RelayLoss"}}),
    "composite": ("residual", {**OFF, **COMPOSITE}),
    "consistency": ("two_branch", {**OFF, "consistency_opt": {"type": "MSELoss"}}),
    "layer, measured": (
        "residual",
        {**OFF, **LAYER, "layer_opt": {**LAYER["layer_opt"], "asymmetry": "auto"}, "dimension_freq": 1},
    ),
    "all, residual": ("residual", {}),
    "all, two_branch": ("two_branch", {}),
    "all, clipped": ("two_branch", {"grad_clip": 0.01}),
    "all, accumulated": ("two_branch", {"accumulate": 2}),
    "restorer": ("residual", {**OFF, **GAN, **RESTORER}),
    "restorer, composite": (
        "residual",
        {**OFF, **GAN, **RESTORER, "restorer_opt": {**RESTORER["restorer_opt"], **COMPOSITE}},
    ),
    "gathered layer": ("residual", {**OFF, **GATHERED_LAYER}),
    "gathered location": ("residual", {**OFF, **GATHERED_LOCATION}),
}
IMAGES = 4


def gradients(name, folder, *, rank=0, processes=1, **changes):
    """Gradients of all networks by name, and the log."""
    decomposition, train = CASES[name]
    opt = options(folder, decomposition, **{**train, **changes})
    opt.update(dist=processes > 1, rank=rank, world_size=processes, manual_seed=3)
    model = build(opt)
    data = batch(n=IMAGES)
    share = {key: value[rank::processes] for key, value in data.items()}
    model.feed_data({**share, "lq": share["lq"].double(), "gt": share["gt"].double()})
    model.optimize_parameters(1)
    found = {
        f"net_{label}.{parameter}": value.grad
        for label, net in model.nets.items()
        for parameter, value in model.get_bare_model(net).named_parameters()
        if value.grad is not None
    }
    return found, dict(model.get_current_log())


def main(folder):
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    found = {name: gradients(name, folder, rank=dist.get_rank(), processes=2) for name in CASES}
    torch.save(found, f"{folder}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
