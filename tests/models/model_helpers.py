"""Tiny models of every loss, and batches of noise."""

import copy

import torch

import nlcl_plugin  # noqa: F401  before BasicSR, which it mends

ADAM = {"type": "Adam", "lr": 1e-3}


def options(tmp_path, decomposition="residual", **train):
    two = decomposition == "two_branch"
    generator = {"type": "LayerGenerator", "num_feat": 8, "num_block": 2}
    opt = {
        "name": "tiny",
        "model_type": "NLCLModel",
        "num_gpu": 0,
        "dist": False,
        "rank": 0,
        "world_size": 1,
        "is_train": True,
        "decomposition": decomposition,
        "network_g": {**generator, "layer": "image" if two else "residual", "num_out_ch": 3 if two else 1},
        "network_r": {**generator, "layer": "rain"},
        "network_d": {"type": "PatchDiscriminator", "num_feat": 8, "num_layers": 2, "antialias": False},
        "network_p": {"type": "ProjectionHeads", "num_feat": 8},
        "network_s": {"type": "ResidualUNet", "num_feat": 8, "num_block": 1},
        "path": {"models": str(tmp_path), "training_states": str(tmp_path), "visualization": str(tmp_path / "v")},
        "train": {
            "total_iter": 8,
            "ema_decay": 0.9,
            "optim_g": ADAM,
            "scheduler": {"type": "LinearDecayLR"},
            "gan_opt": {"type": "GANLoss", "gan_type": "lsgan"},
            "identity_opt": {"type": "L1Loss"},
            "fidelity_opt": {"type": "L1Loss", "loss_weight": 0.1},
            "relay_opt": {"type": "RelayLoss", "loss_weight": 8.0},
            "location_opt": {
                "type": "LocationContrastLoss",
                "sampling": {"taps": [0, 2], "num_patches": 16},
            },
            "layer_opt": {
                "type": "AsymmetricNLCLLoss",
                "sampling": {
                    "taps": [0, 2, 5],
                    "num_queries": 2,
                    "num_image_patches": 4,
                    "num_rain_patches": 6,
                    "patch_size": 8,
                    "search_size": 16,
                },
            },
            **train,
        },
    }
    if two:
        opt["train"].setdefault("consistency_opt", {"type": "MSELoss"})
    return opt


def batch(seed=0, n=2, size=32):
    generator = torch.Generator().manual_seed(seed)
    return {
        "lq": torch.rand(n, 3, size, size, generator=generator),
        "gt": torch.rand(n, 3, size, size, generator=generator),
        "lq_path": [f"rainy/{i}.png" for i in range(n)],
    }


def build(opt):
    from basicsr.models import build_model

    torch.manual_seed(0)
    return build_model(copy.deepcopy(opt))


def step(model, current_iter, **kwargs):
    torch.manual_seed(current_iter)
    model.update_learning_rate(current_iter)
    model.feed_data(batch(current_iter, **kwargs))
    model.optimize_parameters(current_iter)
    return model.get_current_log()


RESTORER = {"restorer_opt": {"start_iter": 2}, "optim_s": ADAM}
