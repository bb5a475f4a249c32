"""BasicSR 1.4.2's own option files on a CPU: each trains, validates or tests, with small networks on generated data.

`TRAIN` and `TEST` have what sets one file apart from another.
"""

import json
import os
from types import SimpleNamespace

import basicsr.archs.vgg_arch
import cv2
import pytest
import torchvision
from basicsr.models.video_base_model import VideoBaseModel
from basicsr.utils.registry import MODEL_REGISTRY
from conftest import photograph
from training_helpers import write_options

from nlcl_plugin import cli
from nlcl_plugin.data.lmdb.create import create_lmdb

KERNELS = ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso"]
BLUR = {"kernel_prob": [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], "kernel_list": KERNELS, "blur_kernel_size": 21,
        "sinc_prob": 0.1, "blur_sigma": [0.2, 3], "betag_range": [0.5, 4], "betap_range": [1, 2]}  # fmt: skip
DEGRADATION = {"resize_prob": [0.2, 0.7, 0.1], "resize_range": [0.15, 1.5], "gaussian_noise_prob": 0.5,
               "noise_range": [1, 30], "poisson_scale_range": [0.05, 3], "gray_noise_prob": 0.4,
               "jpeg_range": [30, 95]}  # fmt: skip
SECOND = {f"{key}2": value for key, value in DEGRADATION.items()}
REAL = {**DEGRADATION, **SECOND, "second_blur_prob": 0.8, "l1_gt_usm": True, "percep_gt_usm": True,
        "gan_gt_usm": False, "gt_usm": True, "gt_size": 64, "queue_size": 2}  # fmt: skip
PIXEL = {"pixel_opt": {"type": "CharbonnierLoss", "reduction": "sum"}}
SEEN = {"perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"conv2_2": 1, "relu1_1": 0.1},
                           "vgg_type": "vgg19"}}  # fmt: skip
GAN = {**PIXEL, **SEEN, "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}}
STYLE = {"gan_opt": {"type": "GANLoss", "gan_type": "wgan_softplus"}, "r1_reg_weight": 10, "path_batch_shrink": 2,
         "path_reg_weight": 2, "net_g_reg_every": 2, "net_d_reg_every": 2, "mixing_prob": 0.9}  # fmt: skip
FACE = {**GAN, "ema_decay": 0, "gan_opt": {"type": "MultiScaleGANLoss", "gan_type": "lsgan"}}  # fmt: skip
FLOW = {**PIXEL, "fix_flow": 2, "flow_lr_mul": 0.125}

# What makes networks small; each file's own entries come before.
SMALL = {
    "BasicVSR": {"num_feat": 8, "num_block": 1, "spynet_path": None},
    "IconVSR": {"num_feat": 8, "num_block": 1, "spynet_path": None, "edvr_path": None},
    "BasicVSRPlusPlus": {"mid_channels": 16, "num_blocks": 1, "spynet_path": None},
    "ECBSR": {"num_block": 1, "num_channel": 4},
    "EDSR": {"num_feat": 8, "num_block": 1},
    "EDVR": {"num_feat": 8, "num_extract_block": 1, "num_reconstruct_block": 1},
    "RRDBNet": {"num_feat": 8, "num_block": 1, "num_grow_ch": 4},
    "HiFaceGAN": {"num_feat": 4, "crop_size": 128},
    "HiFaceGANDiscriminator": {"num_feat": 4},
    "RCAN": {"num_feat": 8, "num_group": 1, "num_block": 1, "squeeze_factor": 4},
    "MSRResNet": {"num_feat": 8, "num_block": 1},
    "VGGStyleDiscriminator": {"num_feat": 4, "input_size": 128},
    "UNetDiscriminatorSN": {"num_feat": 4},
    "StyleGAN2Generator": {"out_size": 16, "num_style_feat": 16, "num_mlp": 2, "narrow": 0.1},
    "StyleGAN2Discriminator": {"out_size": 16, "narrow": 0.1},
    "SwinIR": {"img_size": 8, "window_size": 8, "depths": [1], "embed_dim": 8, "num_heads": [2]},
    "DUF": {"num_layer": 16},
    "TOFlow": {},
}
RGB = {"num_in_ch": 3, "num_out_ch": 3}
EDVR = {"type": "EDVR", **RGB, "num_frame": 5, "deformable_groups": 8, "center_frame_idx": None}
HIFACE = {"type": "HiFaceGAN", "num_in_ch": 3, "use_vae": False, "norm_g": "spectralspadebatch3x3", "is_train": False}
PLUS = {"type": "BasicVSRPlusPlus", "is_low_res_input": True}
ICON = {"type": "IconVSR", "keyframe_stride": 5, "temporal_padding": 3}
SWIN = {"type": "SwinIR", "in_chans": 3, "img_range": 1.0, "mlp_ratio": 2, "upsampler": "pixelshuffle"}
VGG = {"type": "VGGStyleDiscriminator", "num_in_ch": 3}
UNET = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "skip_connection": True}
REDS, VIMEO = "REDSRecurrentDataset", "Vimeo90KRecurrentDataset"
CLIPS, CENTER, FRAMES = "VideoRecurrentTestDataset", "VideoTestVimeo90KDataset", "VideoTestDataset"
PAIRS, LONE, BLURRED = "PairedImageDataset", "SingleImageDataset", "RealESRGANDataset"

# One file per model and dataset: model, scale, network_g, training (or test) dataset, validation dataset, and the rest.
TRAIN = {
    "BasicVSR_Vimeo90K": ("VideoRecurrentModel", 4, {"type": "BasicVSR"}, VIMEO, CLIPS, {"train": FLOW}),
    "BasicVSRPP_REDS": ("VideoRecurrentModel", 4, PLUS, REDS, CLIPS, {"train": FLOW}),
    "VideoRecurrentGANModel_REDS": ("VideoRecurrentGANModel", 4, {"type": "BasicVSR"}, REDS, CLIPS,
                                    {"network_d": VGG, "train": {**GAN, "fix_flow": None, "lr_flow": 0}}),
    "EDVR_M_x4_SR_REDS": ("EDVRModel", 4, EDVR, "REDSDataset", FRAMES, {"train": {**PIXEL, "tsa_iter": 2}}),
    "ECBSR_x2": ("SRModel", 2, {"type": "ECBSR", "num_in_ch": 1, "num_out_ch": 1, "with_idt": False,
                                "act_type": "prelu", "scale": 2}, PAIRS, PAIRS, {"color": "y"}),
    "EDSR_Mx3": ("SRModel", 3, {"type": "EDSR", **RGB, "upscale": 3}, PAIRS, PAIRS, {}),
    "SwinIR_SRx2": ("SwinIRModel", 2, {**SWIN, "upscale": 2}, PAIRS, PAIRS, {}),
    "MSRGAN_x4": ("SRGANModel", 4, {"type": "MSRResNet", **RGB, "upscale": 4}, PAIRS, PAIRS,
                  {"network_d": VGG, "train": GAN}),
    "ESRGAN_x4": ("ESRGANModel", 4, {"type": "RRDBNet", **RGB}, PAIRS, PAIRS, {"network_d": VGG, "train": GAN}),
    "realesrnet_x2plus": ("RealESRNetModel", 2, {"type": "RRDBNet", **RGB, "scale": 2}, BLURRED, None, REAL),
    "LDL_Real_x4": ("RealESRGANModel", 4, {"type": "RRDBNet", **RGB}, BLURRED, LONE,
                    {**REAL, "network_d": UNET, "train": {**GAN, "ldl_opt": {"type": "L1Loss"}}}),
    "hifacegan": ("HiFaceGANModel", 1, HIFACE, PAIRS, PAIRS,
                  {"network_d": {"type": "HiFaceGANDiscriminator", **RGB, "norm_d": "spectralinstance"},
                   "train": FACE}),
    "StyleGAN2_256_Cmul2_FFHQ": ("StyleGAN2Model", 1, {"type": "StyleGAN2Generator"}, "FFHQDataset", None,
                                 {"network_d": {"type": "StyleGAN2Discriminator"}, "train": STYLE}),
}  # fmt: skip
TRAINING = {
    PAIRS: {"gt_size": 128, "use_hflip": True, "use_rot": True},
    REDS: {"gt_size": 256, "use_hflip": True, "use_rot": True, "val_partition": "REDS4", "test_mode": False,
           "interval_list": [1], "random_reverse": False},
    "REDSDataset": {"gt_size": 256, "use_hflip": True, "use_rot": True, "val_partition": "REDS4", "num_frame": 5,
                    "interval_list": [1], "random_reverse": False, "dataroot_flow": None},
    VIMEO: {"gt_size": 256, "use_hflip": True, "use_rot": True, "num_frame": -1, "random_reverse": False,
            "flip_sequence": True},
    BLURRED: {"gt_size": 64, "use_hflip": True, "use_rot": False, "final_sinc_prob": 0.8, **BLUR,
              **{f"{key}2": value for key, value in BLUR.items()}},
    "FFHQDataset": {"use_hflip": True, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}  # fmt: skip
WATCHING = {
    CLIPS: {"name": "REDS4", "num_frame": -1, "cache_data": True},
    FRAMES: {"name": "Vid4", "cache_data": False, "padding": "reflection_circle"},
    CENTER: {"name": "Vimeo90K", "num_frame": 7, "cache_data": False},
    "VideoTestDUFDataset": {"name": "Vid4", "num_frame": 7, "cache_data": False, "padding": "reflection_circle",
                            "use_duf_downsampling": True},
}  # fmt: skip
TEST = {
    "BasicVSR_REDS": ("VideoRecurrentModel", 4, {"type": "BasicVSR"}, CLIPS, {}),
    "IconVSR_Vimeo90K": ("VideoRecurrentModel", 4, ICON, CENTER, {"flip_seq": True, "center_frame_only": True}),
    "DUF_official": ("VideoBaseModel", 4, {"type": "DUF", "scale": 4, "adapt_official_weights": True},
                     "VideoTestDUFDataset", {}),
    "TOF_official": ("VideoBaseModel", 1, {"type": "TOFlow", "adapt_official_weights": True}, FRAMES, {}),
    "EDVR_L_deblur_REDS": ("EDVRModel", 1, {**EDVR, "with_predeblur": True, "hr_in": True}, FRAMES, {}),
    "RCAN": ("SRModel", 4, {"type": "RCAN", **RGB, "upscale": 4}, PAIRS, {}),
    "ESRGAN_x4_woGT": ("ESRGANModel", 4, {"type": "RRDBNet", **RGB}, LONE, {}),
    "hifacegan": ("HiFaceGANModel", 1, HIFACE, PAIRS, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs of 384 pixels (NIQE needs several blocks of 96), clips of 144 and 256, each also smaller.

    They are in `images/x4` and so on; in `x1` as they are.
    """
    root = tmp_path_factory.mktemp("data")

    def write(name, size, seed):
        large = photograph(size, size, seed=seed)
        for scale in (1, 2, 3, 4):
            path = root / name.format(scale)
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.resize(large, (size // scale, size // scale), interpolation=cv2.INTER_AREA))

    for i in range(2):
        write(f"images/x{{}}/{i}.png", 384, seed=i)
        write(f"faces/x{{}}/{i}.png", 16, seed=i)
    for i in range(7):
        write(f"clips/x{{}}/000/{i:08d}.png", 144, seed=i)
        write(f"large_clips/x{{}}/000/{i:08d}.png", 256, seed=i)
        write(f"sequences/x{{}}/00001/0001/im{i + 1}.png", 144, seed=i)
    write("reds/x{}/001/00000000.png", 256, seed=0)
    for first in root.glob("reds/*/001/00000000.png"):
        for i in range(1, 100):  # BasicSR takes it that a clip of REDS has so many frames
            os.link(first, first.with_name(f"{i:08d}.png"))
    for name, lines in {
        "images": ["0.png (384,384,3)", "1.png (384,384,3)"], "reds": ["001 100 (256,256,3)"],
        "clips": ["000 7 (144,144,3)"], "sequences": ["00001/0001 7 (144,144,3)"],
    }.items():  # fmt: skip
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    create_lmdb(root / "faces" / "x1", root / "faces.lmdb", progress=False, log=lambda line: None)
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


def dataset(kind, scale, data, *, large, training):
    """A dataset's block on the generated data, in small or large crops."""
    if kind.startswith("REDS"):
        name = "reds"
    elif "Vimeo90K" in kind:
        name = "sequences"
    else:
        name = ("large_clips" if large else "clips") if kind.startswith("Video") else "images"
    gt, lq = (str(data / name / f"x{factor}") for factor in (1, scale))
    block = {"type": kind, **(TRAINING if training else WATCHING).get(kind, {}), "io_backend": {"type": "disk"}}
    if training:
        block.update(num_worker_per_gpu=0, batch_size_per_gpu=1, dataset_enlarge_ratio=1)
    if kind == "FFHQDataset":
        return {**block, "dataroot_gt": str(data / "faces.lmdb"), "io_backend": {"type": "lmdb"}}
    if kind == BLURRED:
        return {**block, "dataroot_gt": gt, "meta_info": str(data / "images.txt")}
    if kind in (REDS, "REDSDataset", VIMEO, CENTER):
        block["meta_info_file"] = str(data / f"{name}.txt")
    if training:
        block["gt_size"] = 256 if large else 128 if scale != 3 and name == "images" else 144
    if kind == REDS:
        block["num_frame"] = 2 if large else 7
    return {**block, "dataroot_lq": lq, **({} if kind == LONE else {"dataroot_gt": gt})}


def stock_options(name, data, is_train):
    """The options of a stock file, on a CPU, in three iterations, with small networks on the generated data."""
    model, scale, network, *kinds, more = (TRAIN if is_train else TEST)[name]
    video = issubclass(MODEL_REGISTRY.get(model), VideoBaseModel)
    # BasicVSR++ needs inputs of 64 pixels, the discriminator 128 or 256 and the flow network 33 of the same crop.
    large = network["type"] == "BasicVSRPlusPlus" or model == "VideoRecurrentGANModel"
    color = {"color": more["color"]} if "color" in more else {}
    networks = {"network_g": network, **{key: block for key, block in more.items() if key.startswith("network_")}}
    options = {
        "name": name, "model_type": model, "scale": scale, "num_gpu": 0, "path": {}, "datasets": {},
        **({key: value for key, value in more.items() if key != "color"} if is_train else {}),
        **{key: {**block, **SMALL[block["type"]]} for key, block in networks.items()},
        "val": {"save_img": not (is_train and video), "val_freq": 2, **({} if is_train else more)},
    }  # fmt: skip
    if kinds[-1]:
        watched = {**dataset(kinds[-1], scale, data, large=large, training=False), **color}
        if kinds[-1] == FRAMES:
            watched["num_frame"] = network.get("num_frame", 7)
        options["datasets"]["val" if is_train else "test_1"] = watched
        if kinds[-1] != LONE:
            psnr = {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": not is_train}
            options["val"]["metrics"] = {"psnr": psnr}
    if is_train:
        options["datasets"]["train"] = {**dataset(kinds[0], scale, data, large=large, training=True), **color}
        adam = {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
        schedule = {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5}
        options["train"] = {"total_iter": 3, "ema_decay": 0.999, "scheduler": schedule, "optim_g": adam, **PIXEL,
                            **more.get("train", {}), **({"optim_d": adam} if "network_d" in more else {})}  # fmt: skip
        options["logger"] = {"print_freq": 1, "save_checkpoint_freq": 2}
        if large and "network_d" in more:
            options["network_d"]["input_size"] = 256
    return options


def run(folder, options):
    path = str(write_options(folder, options))
    for command in ("check", "train" if "train" in options else "test"):
        assert cli.main([command, "-opt", path]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN)
def test_stock_files_train_and_validate_without_a_gpu(folder, data, name):
    options = stock_options(name, data, is_train=True)
    run(folder, options)
    assert (folder / "experiments" / name / "models" / "net_g_latest.pth").is_file()
    if "val" in options["datasets"]:
        lines = (folder / "experiments" / name / "metrics.jsonl").read_text().splitlines()
        reached = [json.loads(line)["metrics"] for line in lines]
        assert len(reached) == 2  # after the second iteration, and at the end
        assert all(5 < figures["psnr"] < 60 for figures in reached if "metrics" in options["val"])


@pytest.mark.slow
@pytest.mark.parametrize("name", TEST)
def test_stock_files_test_without_a_gpu(folder, data, name):
    run(folder, stock_options(name, data, is_train=False))
    assert list((folder / "results" / name / "visualization").rglob("*.png"))
