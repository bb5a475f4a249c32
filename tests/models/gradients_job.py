"""Gradients and logs of a training step on this process's part of a batch; run by test_distributed_gradients."""

import sys
from pathlib import Path

import addon_helpers
import model_helpers
import torch
import torch.distributed as dist
from addon_helpers import DISCRIMINATOR, ENCODER
from model_helpers import ADAM

sys.path.append(str(Path(__file__).resolve().parents[1] / "mm"))

OFF = dict.fromkeys(("gan_opt", "location_opt", "layer_opt", "identity_opt", "fidelity_opt", "relay_opt"))
GAN = {"gan_opt": {"type": "GANLoss", "gan_type": "lsgan"}}
LAYER = {"type": "AsymmetricNLCLLoss",
         "sampling": {"taps": [0, 2, 5], "num_queries": 2, "num_image_patches": 4, "num_rain_patches": 6,
                      "patch_size": 8, "search_size": 16}}  # fmt: skip
LOCATION = {"type": "LocationContrastLoss", "sampling": {"taps": [0, 2], "num_patches": 16}}
COMPOSITE = {"type": "AsymmetricNLCLLoss", "form": "single", "temperature": 0.02,
             "sampling": {"num_queries": 4, "num_positives": 2, "num_negatives": 2, "search_size": 16}}  # fmt: skip
RESTORER = {"restorer_opt": {"start_iter": 0, "gain": [0.7, 1.3], "composite_opt": COMPOSITE}, "optim_s": ADAM}
GATHERED = {"gather_negatives": True}
# NLCLModel: the decomposition and changes of the train block
UNPAIRED = {
    "all, residual": ("residual", {}),
    "all, two_branch": ("two_branch", {}),
    "all, clipped": ("two_branch", {"grad_clip": 0.01}),
    "all, accumulated": ("two_branch", {"accumulate": 2}),
    "without clean": ("residual", {**OFF, "location_opt": {**LOCATION, "sampling": {"taps": [0], "on_clean": False}}}),
    "measured": ("residual", {**OFF, **GAN, "layer_opt": {**LAYER, "asymmetry": "auto"}, "dimension_freq": 1}),
    "composite": ("residual", {**OFF, "composite_opt": COMPOSITE}),
    "restorer": ("residual", {**OFF, **GAN, **RESTORER}),
    "gathered layer": ("residual", {**OFF, **GAN, "layer_opt": {**LAYER, **GATHERED}}),
    "gathered location": ("residual", {**OFF, "location_opt": {**LOCATION, **GATHERED}}),
}
# models with NLCLMixin: the stock model, features and changes of the block
ADDON = {
    "SwinIR": ("SwinIRModel", addon_helpers.GENERATOR, {"location_opt": addon_helpers.LOCATION}),
    "SRGAN": ("SRGANModel", DISCRIMINATOR, {"location_opt": addon_helpers.LOCATION}),
    "encoder, gathered": (
        "SRModel",
        ENCODER,
        {"location_opt": {**addon_helpers.LOCATION, **GATHERED}, "layer_opt": {**addon_helpers.LAYER, **GATHERED}},
    ),
}
CASES = [*UNPAIRED, *ADDON, "MMEngine"]


def gradients(name, folder, *, rank=0, processes=1, **changes):
    """Gradients of all trained networks by name, and the log."""
    if name == "MMEngine":
        return _of_mmengine(rank, processes)
    helpers = model_helpers if name in UNPAIRED else addon_helpers
    if name in UNPAIRED:
        decomposition, train = UNPAIRED[name]
        opt = helpers.options(folder, decomposition, **{**train, **changes})
    else:
        model, features, block = ADDON[name]
        opt = helpers.options(folder, model, features, **block)
        opt["network_g"].update({"drop_path_rate": 0.0} if model == "SwinIRModel" else {})  # drops paths at random
    model = helpers.build({**opt, "dist": processes > 1, "rank": rank, "world_size": processes, "manual_seed": 3})
    model.feed_data(_own_images(helpers.batch(n=4), rank, processes))
    model.optimize_parameters(1)
    nets = model.nets if name in UNPAIRED else {"g": model.net_g, **model.nlcl_nets}
    found = {
        f"{label}.{parameter}": value.grad
        for label, net in nets.items()
        for parameter, value in model.get_bare_model(net).named_parameters()
        if value.grad is not None
    }
    return found, dict(model.get_current_log()) if name in UNPAIRED else {}  # BasicSR sums logs on rank 0 alone


def _own_images(batch, rank, processes):
    own = {key: value[rank::processes] for key, value in batch.items()}
    return {**own, "lq": own["lq"].double(), "gt": own["gt"].double()}


def _of_mmengine(rank, processes):
    from mm_helpers import batch, build, optimizers
    from mmengine.model import MMSeparateDistributedDataParallel

    model = build()
    wrapped = MMSeparateDistributedDataParallel(model, device_ids=None) if processes > 1 else model
    wrappers = optimizers(wrapped)
    found, log = {}, {}
    for stage in (1, 2):
        log |= wrapped.train_step(_own_images(batch(), rank, processes), optim_wrapper=wrappers)
        for name, value in model.named_parameters():
            if value.grad is not None:
                found[f"{stage} {name.replace('module.', '')}"] = value.grad.clone()
    return found, log


def main(folder):
    torch.set_default_dtype(torch.float64)
    dist.init_process_group("gloo")
    found = {name: gradients(name, folder, rank=dist.get_rank(), processes=2) for name in CASES}
    torch.save(found, f"{folder}/rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
