"""BasicSR 1.4.2's own option files on a CPU: each trains, validates or tests, with small networks on generated data.

`STOCK` has what sets one file apart from another; with BASICSR_CLONE, a clone of BasicSR, its files are read as well.
"""

import json
import os
import re
from pathlib import Path
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
from nlcl_plugin.config.option_files import load_yaml

CLONE = os.environ.get("BASICSR_CLONE")
PIXEL = {"pixel_opt": {"type": "CharbonnierLoss", "reduction": "sum"}}
SEEN = {"perceptual_opt": {"type": "PerceptualLoss", "layer_weights": {"conv2_2": 1, "relu1_1": 0.1},
                           "vgg_type": "vgg19"}}  # fmt: skip
GAN = {**PIXEL, **SEEN, "gan_opt": {"type": "GANLoss", "gan_type": "vanilla", "loss_weight": 0.1}}
FACE = {**GAN, "ema_decay": 0, "gan_opt": {"type": "MultiScaleGANLoss", "gan_type": "lsgan"},
        "feature_matching_opt": {"type": "GANFeatLoss", "loss_weight": 10, "criterion": "l1"}}  # fmt: skip
GONE = "no loss is named 'GANFeatLoss'; did you mean 'GANLoss'?"  # BasicSR 1.4.2 lost it
RANGES = {"calculate_psnr": (5, 60), "calculate_ssim": (-1, 1), "calculate_niqe": (0, float("inf"))}
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
    "SwinIR": {"img_size": 8, "window_size": 8, "depths": [1], "embed_dim": 8, "num_heads": [2]},
    "DUF": {"num_layer": 16},
    "TOFlow": {},
}
RGB = {"num_in_ch": 3, "num_out_ch": 3}
EDVR = {"type": "EDVR", **RGB, "num_frame": 5, "deformable_groups": 8, "center_frame_idx": None}
HIFACE = {"type": "HiFaceGAN", "num_in_ch": 3, "use_vae": False, "norm_g": "spectralspadebatch3x3", "is_train": False}
PLUS = {"type": "BasicVSRPlusPlus", "is_low_res_input": True}
SWIN = {"type": "SwinIR", "in_chans": 3, "img_range": 1.0, "mlp_ratio": 2, "upsampler": "pixelshuffle"}
VGG = {"type": "VGGStyleDiscriminator", "num_in_ch": 3}
REDS, VIMEO = "REDSRecurrentDataset", "Vimeo90KRecurrentDataset"
CLIPS, CENTER, FRAMES = "VideoRecurrentTestDataset", "VideoTestVimeo90KDataset", "VideoTestDataset"
PAIRS, LONE = "PairedImageDataset", "SingleImageDataset"

# file: model, scale, network_g, training (or test) dataset, validation dataset, and what else it has
TRAIN = {
    "BasicVSR_REDS": ("VideoRecurrentModel", 4, {"type": "BasicVSR"}, REDS, CLIPS, {"train": FLOW}),
    "BasicVSRPP_REDS": ("VideoRecurrentModel", 4, PLUS, REDS, CLIPS, {"train": FLOW}),
    "VideoRecurrentGANModel_REDS": ("VideoRecurrentGANModel", 4, {"type": "BasicVSR"}, REDS, CLIPS,
                                    {"network_d": VGG, "train": {**GAN, "fix_flow": None, "lr_flow": 0}}),
    "EDVR_L_x4_SR_REDS": ("EDVRModel", 4, EDVR, "REDSDataset", FRAMES, {"train": {**PIXEL, "tsa_iter": 2}}),
    "ECBSR_x2": ("SRModel", 2, {"type": "ECBSR", "num_in_ch": 1, "num_out_ch": 1, "with_idt": False,
                                "act_type": "prelu", "scale": 2}, PAIRS, PAIRS, {"color": "y"}),
    "SwinIR_SRx2": ("SwinIRModel", 2, {**SWIN, "upscale": 2}, PAIRS, PAIRS, {}),
    "ESRGAN_x4": ("ESRGANModel", 4, {"type": "RRDBNet", **RGB}, PAIRS, PAIRS, {"network_d": VGG, "train": GAN}),
    "hifacegan": ("HiFaceGANModel", 1, HIFACE, PAIRS, PAIRS,
                  {"network_d": {"type": "HiFaceGANDiscriminator", **RGB, "norm_d": "spectralinstance"},
                   "train": FACE}),
}  # fmt: skip
VSR = {"type": "BasicVSR"}
TRAINING = {
    PAIRS: {"gt_size": 128, "use_hflip": True, "use_rot": True},
    REDS: {"gt_size": 256, "use_hflip": True, "use_rot": True, "val_partition": "REDS4", "test_mode": False,
           "interval_list": [1], "random_reverse": False},
    "REDSDataset": {"gt_size": 256, "use_hflip": True, "use_rot": True, "val_partition": "REDS4", "num_frame": 5,
                    "interval_list": [1], "random_reverse": False, "dataroot_flow": None},
}  # fmt: skip
WATCHING = {
    CLIPS: {"name": "REDS4", "num_frame": -1, "cache_data": True},
    FRAMES: {"name": "Vid4", "cache_data": False, "padding": "reflection_circle"},
    CENTER: {"name": "Vimeo90K", "num_frame": 7, "cache_data": False},
    "VideoTestDUFDataset": {"name": "Vid4", "num_frame": 7, "cache_data": False, "padding": "reflection_circle",
                            "use_duf_downsampling": True},
}  # fmt: skip
TEST = {
    "BasicVSR_REDS": ("VideoRecurrentModel", 4, VSR, CLIPS, {}),
    "BasicVSR_Vimeo90K_BI": ("VideoRecurrentModel", 4, VSR, CENTER, {"flip_seq": True, "center_frame_only": True}),
    "DUF_official": ("VideoBaseModel", 4, {"type": "DUF", "scale": 4, "adapt_official_weights": True},
                     "VideoTestDUFDataset", {}),
    "EDVR_M_x4_SR_REDS": ("EDVRModel", 4, EDVR, FRAMES, {}),
    "RCAN": ("SRModel", 4, {"type": "RCAN", **RGB, "upscale": 4}, PAIRS, {}),
    "ESRGAN_x4_woGT": ("ESRGANModel", 4, {"type": "RRDBNet", **RGB}, LONE, {}),
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
    for i in range(7):
        write(f"clips/x{{}}/000/{i:08d}.png", 144, seed=i)
        write(f"large_clips/x{{}}/000/{i:08d}.png", 256, seed=i)
        write(f"sequences/x{{}}/00001/0001/im{i + 1}.png", 144, seed=i)
    write("reds/x{}/001/00000000.png", 256, seed=0)
    for first in root.glob("reds/*/001/00000000.png"):
        for i in range(1, 100):  # BasicSR takes it that a clip of REDS has so many frames
            os.link(first, first.with_name(f"{i:08d}.png"))
    for name, lines in {
        "reds": ["001 100 (256,256,3)"], "clips": ["000 7 (144,144,3)"], "sequences": ["00001/0001 7 (144,144,3)"],
    }.items():  # fmt: skip
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
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


def placed(block, scale, data, *, large):
    """A dataset's block on the generated data, in small or large crops."""
    kind = block["type"]
    if kind.startswith("REDS"):
        name = "reds"
    elif "Vimeo90K" in kind:
        name = "sequences"
    else:
        name = ("large_clips" if large else "clips") if kind.startswith("Video") else "images"
    gt, lq = (str(data / name / f"x{factor}") for factor in (1, scale))
    block = {**block, "io_backend": {"type": "disk"}, "num_worker_per_gpu": 0, "batch_size_per_gpu": 1,
             "dataset_enlarge_ratio": 1}  # fmt: skip
    if kind in (REDS, "REDSDataset", VIMEO, CENTER) or "meta_info_file" in block:
        block["meta_info_file"] = str(data / f"{name}.txt")
    if "gt_size" in block:
        block["gt_size"] = 256 if large else 128 if scale != 3 and name == "images" else 144
    if kind == REDS:
        block["num_frame"] = 2 if large else 7
    if "filename_tmpl" in block:
        block["filename_tmpl"] = "{}"
    roots = {"dataroot_lq": lq} if kind == LONE else {"dataroot_gt": gt, "dataroot_lq": lq}
    return {**block, **roots}


def small(options, data):
    """Options of a stock file, on a CPU, in three iterations, with small networks on the generated data."""
    scale = 1 if options["network_g"]["type"] == "TOFlow" else options.get("scale", 1)
    options = {**options, "num_gpu": 0, "path": {}}
    # BasicVSR++ needs inputs of 64 pixels, the discriminator 128 or 256 and the flow network 33 of the same crop.
    large = options["network_g"]["type"] == "BasicVSRPlusPlus" or options["model_type"] == "VideoRecurrentGANModel"
    options["datasets"] = {k: placed(block, scale, data, large=large) for k, block in options["datasets"].items()}
    for key in [key for key in options if key.startswith("network_")]:
        options[key] = {**options[key], **SMALL[options[key]["type"]]}
    if "train" in options:
        options["train"] = {**options["train"], "total_iter": 3}
        size = options["datasets"]["train"].get("gt_size")
        if options.get("network_d", {}).get("type") == "VGGStyleDiscriminator" and size in (128, 256):
            options["network_d"]["input_size"] = size
        options["logger"] = {"print_freq": 1, "save_checkpoint_freq": 2}
        if options.get("val"):
            options["val"] = {**options["val"], "val_freq": 2}
    return options


def written(name, is_train):
    """The options of a stock file as this test has them."""
    model, scale, network, *datasets, more = (TRAIN if is_train else TEST)[name]
    color = {"color": more["color"]} if "color" in more else {}
    watched = datasets[-1] and {"type": datasets[-1], **WATCHING.get(datasets[-1], {}), **color}
    if watched and watched["type"] == FRAMES:
        watched["num_frame"] = network.get("num_frame", 7)
    metrics = {} if watched is None or watched["type"] == LONE else {
        "metrics": {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": not is_train}}}  # fmt: skip
    video = issubclass(MODEL_REGISTRY.get(model), VideoBaseModel)
    val = {"save_img": not (is_train and video), **metrics}
    options = {"name": re.sub(r"\W", "", name), "model_type": model, "scale": scale, "network_g": network, "val": val}
    if not is_train:
        return {**options, "datasets": {"test_1": watched}, "val": {**val, **more}}
    adam = {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
    schedule = {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5}
    train = {"ema_decay": 0.999, "scheduler": schedule, "optim_g": adam, **PIXEL, **more.get("train", {})}
    if "network_d" in more:
        train["optim_d"] = adam
    options["datasets"] = {"train": {"type": datasets[0], **TRAINING[datasets[0]], **color},
                           **({"val": watched} if watched else {})}  # fmt: skip
    return {**options, **{key: value for key, value in more.items() if key != "color"}, "train": train}


def run(folder, options):
    """Check it, then train or test with it; returns both exit codes."""
    path = write_options(folder, options)
    return [cli.main([command, "-opt", str(path)]) for command in ("check", "train" if "train" in options else "test")]


def assert_runs_or_is_refused(folder, options, capsys):
    for block, key, complaint in (
        (options.get("train", {}), "feature_matching_opt", f"train.feature_matching_opt.type: {GONE}"),
        (options["network_g"], "ema_decay", "network_g.ema_decay: unknown option"),
    ):
        if key in block:
            assert run(folder, options) == [2, 2]
            lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
            assert lines == [f"error: {complaint}"] * 2
            del block[key]
    assert run(folder, options) == [0, 0]
    assert_done(folder, options)


def assert_done(folder, options):
    metrics = options.get("val", {}).get("metrics")
    watched = [block for name, block in options["datasets"].items() if name != "train"]
    if "train" in options:
        assert (folder / "experiments" / options["name"] / "models" / "net_g_latest.pth").is_file()
        lines = (folder / "experiments" / options["name"] / "metrics.jsonl").read_text().splitlines()
        reached = [json.loads(line)["metrics"] for line in lines]
        assert len(reached) == 2 * len(watched)  # after the second iteration, and at the end
        for figures in reached if metrics else ():
            assert figures.keys() == metrics.keys()
            for name, value in figures.items():
                low, high = RANGES[metrics[name]["type"]]
                assert low < value < high, figures
    else:
        assert list((folder / "results" / options["name"] / "visualization").rglob("*.png"))


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAIN)
def test_stock_files_train_and_validate_without_a_gpu(folder, data, name, capsys):
    options = small(written(name, is_train=True), data)
    assert_runs_or_is_refused(folder, options, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEST)
def test_stock_files_test_without_a_gpu(folder, data, name):
    options = small(written(name, is_train=False), data)
    assert run(folder, options) == [0, 0]
    assert_done(folder, options)


@pytest.mark.slow
@pytest.mark.skipif(CLONE is None, reason="pip brings no option files: set BASICSR_CLONE to a clone of BasicSR 1.4.2")
@pytest.mark.parametrize("file", sorted(Path(CLONE or "-").glob("options/*/**/*.yml")), ids=lambda file: file.stem)
def test_the_files_of_a_clone_run_without_a_gpu(folder, data, file, capsys):
    if load_yaml(str(file))["model_type"] in ("RealESRGANModel", "RealESRNetModel", "StyleGAN2Model"):
        pytest.skip("needs a GPU")
    assert_runs_or_is_refused(folder, small(load_yaml(str(file)), data), capsys)
