"""Tiny stock models with and without the losses of `train.nlcl_opt`."""

import copy

import torch
from model_helpers import build  # noqa: F401  for the tests

ADAM = {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.99]}
SAMPLING = {"num_queries": 2, "num_image_patches": 4, "num_rain_patches": 6, "patch_size": 4, "search_size": 10}
LAYER = {"type": "AsymmetricNLCLLoss", "sampling": SAMPLING}
LOCATION = {"type": "LocationContrastLoss", "sampling": {"num_patches": 8}}
EDSR = {"type": "EDSR", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 8, "num_block": 1, "img_range": 1.0}
SWINIR = {
    "type": "SwinIR", "upscale": 1, "img_size": 16, "window_size": 4, "img_range": 1.0, "depths": [2], "embed_dim": 8,
    "num_heads": [2], "mlp_ratio": 2, "upsampler": "", "resi_connection": "1conv",
}  # fmt: skip
UNET_D = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
GENERATOR = {"source": "generator", "modules": ["conv_first", "conv_after_body"]}
DISCRIMINATOR = {"source": "discriminator", "modules": ["conv0", "conv2"]}
ENCODER = {"source": "encoder"}
PIXEL = {"type": "L1Loss", "loss_weight": 1.0, "reduction": "mean"}
GAN = {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}


def options(tmp_path, model="SRModel", features=GENERATOR, *, scale=1, **nlcl):
    """Options of NLCL{model}; `nlcl` changes the block nlcl_opt, and `nlcl_opt=None` leaves it out."""
    block = {"loss_weight": 0.5, "features": features, "layer_opt": LAYER, **nlcl}
    train = {
        "ema_decay": 0.9,
        "optim_g": dict(ADAM),
        "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
        "total_iter": 8,
        "pixel_opt": PIXEL,
    }
    if "GAN" in model:
        train |= {"optim_d": dict(ADAM), "gan_opt": GAN}
    if nlcl.get("nlcl_opt", block) is not None:
        train["nlcl_opt"] = block
    return {  # BasicSR takes entries out of blocks, so that none may stand in two places
        "name": "tiny",
        "model_type": f"NLCL{model}",
        "scale": scale,
        "num_gpu": 0,
        "manual_seed": 3,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "is_train": True,
        "datasets": {"train": {"gt_size": 16 * scale}},
        "network_g": {**EDSR, "upscale": scale} if "SwinIR" not in model else SWINIR,
        "network_d": UNET_D,
        "network_p": {"type": "ProjectionHeads", "num_feat": 8},
        "network_e": {"type": "FeatureEncoder", "num_feat": 4, "num_level": 2},
        "path": {"models": str(tmp_path), "training_states": str(tmp_path)},
        "train": train,
    }


def stock(opt):
    """The options of the stock model that NLCL's derives from."""
    opt = copy.deepcopy(opt)
    opt["model_type"] = opt["model_type"].removeprefix("NLCL")
    del opt["train"]["nlcl_opt"], opt["network_p"], opt["network_e"]
    return opt


def batch(current_iter=0, *, n=2, scale=1, size=16):
    generator = torch.Generator().manual_seed(current_iter)
    clean = torch.rand(n, 3, size * scale, size * scale, generator=generator)
    rainy = torch.nn.functional.interpolate(clean, size=(size, size)) + 0.2 * torch.rand(
        n, 1, size, size, generator=generator
    )
    return {"lq": rainy.clamp(max=1), "gt": clean}


def step(model, current_iter, **kwargs):
    model.update_learning_rate(current_iter)
    model.feed_data(batch(current_iter, **kwargs))
    model.optimize_parameters(current_iter)
    return model.get_current_log()


def states(model):
    """All weights of all networks, by name."""
    nets = {name: net for name, net in vars(model).items() if name.startswith("net_") and hasattr(net, "state_dict")}
    return {
        f"{label}.{name}": value.clone()
        for label, net in nets.items()
        for name, value in model.get_bare_model(net).state_dict().items()
    }
