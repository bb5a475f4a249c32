"""BasicSR 1.4.2's own option files on a CPU: each trains, validates or tests, with small networks on generated data."""

import json
import os
from types import SimpleNamespace

import basicsr.archs.vgg_arch
import cv2
import pytest
import torchvision
from conftest import photograph
from training_helpers import write_options

from nlcl_plugin import cli

KERNELS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
BLUR = {"kernel_prob": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], "kernel_list": KERNELS, "blur_kernel_size": 21,
        "sinc_prob": 0.1, "blur_sigma": [0.2, 3], "betag_range": [0.5, 4], "betap_range": [1, 2]}  # fmt: skip
DEGRADATION = {"resize_prob": [0.2, 0.7, 0.1], "resize_range": [0.15, 1.5], "gaussian_noise_prob": 0.5,
               "noise_range": [1, 30], "poisson_scale_range": [0.05, 3], "gray_noise_prob": 0.4,
               "jpeg_range": [30, 95]}  # fmt: skip
REAL = {**DEGRADATION, **{f"{key}2": value for key, value in DEGRADATION.items()}, "second_blur_prob": 0.8,
        "l1_gt_usm": True, "percep_gt_usm": True, "gan_gt_usm": False, "gt_usm": True, "gt_size": 64,
        "queue_size": 2}  # fmt: skip
PIXEL = {"pixel_opt": {"type": "CharbonnierLoss", "reduction": "sum"}}
SEEN = {"perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"conv2_2": 1, "relu1_1": 0.1},
                           "vgg_type": "vgg19"}}  # fmt: skip
GAN = {**PIXEL, **SEEN, "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}}
RGB = {"num_in_ch": 3, "num_out_ch": 3}
RRDB = {"type": "RRDBNet", **RGB, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
RESNET = {"type": "MSRResNet", **RGB, "num_feat": 8, "num_block": 1, "upscale": 4}
SWIN = {"type": "SwinIR", "in_chans": 3, "img_range": 1.0, "mlp_ratio": 2, "upsampler": "pixelshuffle", "upscale": 2,
        "img_size": 8, "window_size": 8, "depths": [1], "embed_dim": 8, "num_heads": [2]}  # fmt: skip
GREY = {"type": "ECBSR", "num_in_ch": 1, "num_out_ch": 1, "with_idt": False, "act_type": "prelu", "scale": 2,
        "num_block": 1, "num_channel": 4}  # fmt: skip
VSR = {"type": "BasicVSR", "num_feat": 8, "num_block": 1, "spynet_path": None}
VGG = {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 4, "input_size": 128}
UNET = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "skip_connection": True, "num_feat": 4}
PAIRS, LONE, BLURRED = "PairedImageDataset", "SingleImageDataset", "RealESRGANDataset"
REDS, CLIPS = "REDSRecurrentDataset", "VideoRecurrentTestDataset"

# One file per image model, and one of video: model, scale, network_g, training and validation dataset, and the rest.
TRAIN = {
    "ECBSR_x2": ("SRModel", 2, GREY, PAIRS, PAIRS, {"color": "y"}),
    "EDSR_Mx3": ("SRModel", 3, {"type": "EDSR", **RGB, "upscale": 3, "num_feat": 8, "num_block": 1}, PAIRS, PAIRS, {}),
    "SwinIR_SRx2": ("SwinIRModel", 2, SWIN, PAIRS, PAIRS, {}),
    "MSRGAN_x4": ("SRGANModel", 4, RESNET, PAIRS, PAIRS, {"network_d": VGG, "train": GAN}),
    "ESRGAN_x4": ("ESRGANModel", 4, RRDB, PAIRS, PAIRS, {"network_d": VGG, "train": GAN}),
    "realesrnet_x2plus": ("RealESRNetModel", 2, {**RRDB, "scale": 2}, BLURRED, None, REAL),
    "LDL_Real_x4": ("RealESRGANModel", 4, RRDB, BLURRED, LONE,
                    {**REAL, "network_d": UNET, "train": {**GAN, "ldl_opt": {"type": "L1Loss"}}}),
    "VideoRecurrentGANModel_REDS": ("VideoRecurrentGANModel", 4, VSR, REDS, CLIPS,
                                    {"network_d": {**VGG, "input_size": 256},
                                     "train": {**GAN, "fix_flow": None, "lr_flow": 0}}),
}  # fmt: skip
BLOCKS = {
    PAIRS: {"gt_size": 128, "use_hflip": True, "use_rot": True},
    REDS: {"gt_size": 256, "use_hflip": True, "use_rot": True, "val_partition": "REDS4", "test_mode": False,
           "interval_list": [1], "random_reverse": False, "num_frame": 2},
    BLURRED: {"gt_size": 64, "use_hflip": True, "use_rot": False, "final_sinc_prob": 0.8, **BLUR,
              **{f"{key}2": value for key, value in BLUR.items()}},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs and frames, each also smaller: as they are in `images/x1`, in `images/x4` and so on."""
    root = tmp_path_factory.mktemp("data")
    for kind, names in (("images", ["0", "1"]), ("reds", ["001/00000000"]), ("clips", ["000/0", "000/1"])):
        size = 384 if kind == "images" else 256
        for seed, name in enumerate(names):
            large = photograph(size, size, seed=seed)
            for scale in (1, 2, 3, 4):
                path = root / kind / f"x{scale}" / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(path), cv2.resize(large, (size // scale, size // scale), interpolation=cv2.INTER_AREA))
    for first in root.glob("reds/*/001/00000000.png"):
        for i in range(1, 100):  # BasicSR takes it that a clip of REDS has so many frames
            os.link(first, first.with_name(f"{i:08d}.png"))
    (root / "images.txt").write_text("0.png (384,384,3)\n1.png (384,384,3)\n")
    (root / "reds.txt").write_text("001 100 (256,256,3)\n")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder of a run, without BasicSR's logger of the run before, and a VGG that needs no download."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("basicsr.utils.logger.initialized_logger", {})
    layers = [size if size == "M" else size // 16 for size in torchvision.models.vgg.cfgs["E"]]
    vgg = lambda pretrained: SimpleNamespace(features=torchvision.models.vgg.make_layers(layers))  # noqa: E731
    monkeypatch.setattr(basicsr.archs.vgg_arch.vgg, "vgg19", vgg)
    return tmp_path


def dataset(kind, scale, data, more, *, training):
    """A dataset's block on the generated data."""
    name = {REDS: "reds", CLIPS: "clips"}.get(kind, "images")
    roots = {key: str(data / name / f"x{factor}") for key, factor in (("dataroot_gt", 1), ("dataroot_lq", scale))}
    block = {"type": kind, "io_backend": {"type": "disk"}, **({"color": more["color"]} if "color" in more else {})}
    if training:
        block.update(BLOCKS[kind], num_worker_per_gpu=0, batch_size_per_gpu=1)
    if kind == BLURRED:
        return {**block, "dataroot_gt": roots["dataroot_gt"], "meta_info": str(data / "images.txt")}
    if kind == REDS:
        block["meta_info_file"] = str(data / "reds.txt")
    if kind == CLIPS:
        block.update(name="REDS4", num_frame=-1, cache_data=True)
    if kind == LONE:
        del roots["dataroot_gt"]
    if scale == 3 and training:
        block["gt_size"] = 144
    return {**block, **roots}


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN)
def test_stock_files_train_validate_and_test_without_a_gpu(folder, data, name):
    model, scale, network, kind, watched, more = TRAIN[name]
    adam = {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    psnr = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": False}}
    metrics = {"metrics": psnr} if watched in (PAIRS, CLIPS) else {}
    options = {
        "name": name, "model_type": model, "scale": scale, "num_gpu": 0, "network_g": network,
        **{key: value for key, value in more.items() if key != "color"},
        "datasets": {"train": dataset(kind, scale, data, more, training=True)},
        "train": {"total_iter": 3, "ema_decay": 0.999, "optim_g": adam, **PIXEL,
                  "scheduler": {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5},
                  **more.get("train", {}), **({"optim_d": adam} if "network_d" in more else {})},
        "val": {"save_img": watched != CLIPS, "val_freq": 2, **metrics},
        "logger": {"print_freq": 1, "save_checkpoint_freq": 2},
    }  # fmt: skip
    if watched:
        options["datasets"]["val"] = dataset(watched, scale, data, more, training=False)
    path = str(write_options(folder, options))
    assert [cli.main([command, "-opt", path]) for command in ("check", "train")] == [0, 0]
    weights = folder / "experiments" / name / "models" / "net_g_latest.pth"
    assert weights.is_file()
    if watched:
        lines = (folder / "experiments" / name / "metrics.jsonl").read_text().splitlines()
        reached = [json.loads(line)["metrics"] for line in lines]
        assert len(reached) == 2  # after the second iteration, and at the end
        assert all(5 < figures["psnr"] < 60 for figures in reached if metrics)
        options["datasets"] = {"test_1": options["datasets"]["val"]}
        options.update(path={"pretrain_network_g": str(weights)}, val={"save_img": True, **metrics})
        path = str(write_options(folder, {key: options[key] for key in options if key not in ("train", "network_d")}))
        assert [cli.main([command, "-opt", path]) for command in ("check", "test")] == [0, 0]
        assert list((folder / "results" / name / "visualization").rglob("*.png"))
