"""Gradients of one step of mixed models on this process's share of a batch; run by test_nlcl_mixin."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from addon_helpers import DISCRIMINATOR, ENCODER, GENERATOR, LAYER, LOCATION, batch, build, options

GATHERED = {"location_opt": {**LOCATION, "gather_negatives": True}, "layer_opt": {**LAYER, "gather_negatives": True}}
# name: (model, features, changes of the block)
CASES = {
    "generator": ("SRModel", GENERATOR, {}),
    "generator, SwinIR": ("SwinIRModel", GENERATOR, {"location_opt": LOCATION}),
    "discriminator": ("SRGANModel", DISCRIMINATOR, {"location_opt": LOCATION}),
    "encoder": ("SRModel", ENCODER, {"location_opt": LOCATION}),
    "encoder, gathered": ("SRModel", ENCODER, GATHERED),
}


def gradients(name, folder, *, rank=0, processes=1):
    """Gradients of generator, heads and encoder by name."""
    model, features, changes = CASES[name]
    opt = options(folder, model, features, **changes)
    opt.update(dist=processes > 1, rank=rank, world_size=processes)
    if model == "SwinIRModel":
        opt["network_g"] = {**opt["network_g"], "drop_path_rate": 0.0}  # drops paths at random, each process its own
    built = build(opt)
    built.feed_data({key: value[rank::processes].double() for key, value in batch(n=4).items()})
    built.optimize_parameters(1)
    return {
        f"net_{label}.{parameter}": value.grad
        for label in ("g", "p", "e")
        if hasattr(built, f"net_{label}")
        for parameter, value in built.get_bare_model(getattr(built, f"net_{label}")).named_parameters()
        if value.grad is not None
    }


def main(folder):
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    found = {name: gradients(name, folder, rank=dist.get_rank(), processes=2) for name in CASES}
    torch.save(found, f"{folder}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
