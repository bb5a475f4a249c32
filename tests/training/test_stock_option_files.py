"""Options as in BasicSR 1.4.2's own files, one of most kinds, on a CPU: small networks train, validate or test."""

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

RGB = {"num_in_ch": 3, "num_out_ch": 3}
VSR = {"type": "BasicVSR", "num_feat": 8, "num_block": 1, "spynet_path": None}
PLUS = {"type": "BasicVSRPlusPlus", "is_low_res_input": True, "mid_channels": 16, "num_blocks": 1, "spynet_path": None}
ECBSR = {"type": "ECBSR", "num_in_ch": 1, "num_out_ch": 1, "with_idt": False, "act_type": "prelu", "scale": 2,
         "num_block": 1, "num_channel": 4}  # fmt: skip
SWIN = {"type": "SwinIR", "in_chans": 3, "img_range": 1.0, "mlp_ratio": 2, "upsampler": "pixelshuffle", "upscale": 2,
        "img_size": 8, "window_size": 8, "depths": [1], "embed_dim": 8, "num_heads": [2]}  # fmt: skip
RRDB = {"type": "RRDBNet", **RGB, "num_feat": 8, "num_block": 1, "num_grow_ch": 4}
VGG = {"type": "VGGStyleDiscriminator", "num_in_ch": 3, "num_feat": 4}
FACE = {"type": "HiFaceGAN", "num_in_ch": 3, "use_vae": False, "norm_g": "spectralspadebatch3x3", "is_train": False,
        "num_feat": 4, "crop_size": 128}  # fmt: skip
FACE_D = {"type": "HiFaceGANDiscriminator", **RGB, "norm_d": "spectralinstance", "num_feat": 4}
DUF = {"type": "DUF", "scale": 4, "adapt_official_weights": True, "num_layer": 16}

ADAM = {"type": "Adam", "lr": 1e-4, "betas": [0.9, 0.99]}
PIXEL = {"pixel_opt": {"type": "CharbonnierLoss", "reduction": "sum"}, "ema_decay": 0.999}
SEEN = {"type": "PerceptualLoss", "layer_weights": {"conv2_2": 1, "relu1_1": 0.1}, "vgg_type": "vgg19"}
GAN = {**PIXEL, "perceptual_opt": SEEN, "optim_d": ADAM, "gan_opt": {"type": "GANLoss", "gan_type": "vanilla"}}
MANY_GANS = {**GAN, "gan_opt": {"type": "MultiScaleGANLoss", "gan_type": "lsgan"}, "ema_decay": 0}
FLOW = {**PIXEL, "fix_flow": 2, "flow_lr_mul": 0.125}


def block(kind, folder, scale, **more):
    roots = {"dataroot_gt": f"data/{folder}/x1", "dataroot_lq": f"data/{folder}/x{scale}"}
    return {"type": kind, **roots, "io_backend": {"type": "disk"}, **more}


def pairs(scale, **more):
    training = {"gt_size": 128, "use_hflip": True, "use_rot": True, "batch_size_per_gpu": 1, **more}
    return block("PairedImageDataset", "images", scale, **training), block(
        "PairedImageDataset", "images", scale, **more
    )


def clips(size, num_frame):
    common = {"use_hflip": True, "use_rot": True, "interval_list": [1], "random_reverse": False, "gt_size": size,
              "val_partition": "REDS4", "num_frame": num_frame, "batch_size_per_gpu": 1,
              "test_mode": False}  # fmt: skip
    folder = "clips" if size < 256 else "large_clips"
    return block("REDSRecurrentDataset", "reds", 4, meta_info_file="data/reds.txt", **common), block(
        "VideoRecurrentTestDataset", folder, 4, num_frame=-1, cache_data=True
    )


# model, scale, networks, training, datasets of training and validation
TRAIN = {
    "BasicVSR_REDS": ("VideoRecurrentModel", 4, [VSR], FLOW, clips(144, 7)),
    "BasicVSRPP_REDS": ("VideoRecurrentModel", 4, [PLUS], FLOW, clips(256, 2)),
    "VideoRecurrentGANModel_REDS": ("VideoRecurrentGANModel", 4, [VSR, {**VGG, "input_size": 256}],
                                    {**GAN, "fix_flow": None, "lr_flow": 0}, clips(256, 2)),
    "ECBSR_x2": ("SRModel", 2, [ECBSR], PIXEL, pairs(2, color="y")),
    "SwinIR_SRx2": ("SwinIRModel", 2, [SWIN], PIXEL, pairs(2)),
    "ESRGAN_x4": ("ESRGANModel", 4, [RRDB, {**VGG, "input_size": 128}], GAN, pairs(4)),
    "hifacegan": ("HiFaceGANModel", 1, [FACE, FACE_D], MANY_GANS, pairs(1)),
}  # fmt: skip
CENTER = {"num_frame": 7, "cache_data": False, "meta_info_file": "data/sequences.txt"}
DOWN = {"num_frame": 7, "cache_data": False, "padding": "reflection_circle", "use_duf_downsampling": True}
# model, network, dataset, and more of `val`
TEST = {
    "BasicVSR_Vimeo90K_BI": ("VideoRecurrentModel", VSR, block("VideoTestVimeo90KDataset", "sequences", 4, **CENTER),
                             {"flip_seq": True, "center_frame_only": True}),
    "DUF_official": ("VideoBaseModel", DUF, block("VideoTestDUFDataset", "clips", 4, **DOWN), {}),
    "ESRGAN_x4_woGT": ("ESRGANModel", RRDB, block("SingleImageDataset", "images", 4), {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photographs of 384 pixels, clips of 144 and 256: in `x1` as they are, and smaller in `x2` and `x4`."""
    root = tmp_path_factory.mktemp("data")

    def write(name, size, seed):
        large = photograph(size, size, seed=seed)
        for scale in (1, 2, 4):
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
    (root / "reds.txt").write_text("001 100 (256,256,3)\n")
    (root / "sequences.txt").write_text("00001/0001 7 (144,144,3)\n")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch, data):
    """The current folder of a run, and a VGG that needs no download."""
    (tmp_path / "data").symlink_to(data)
    monkeypatch.chdir(tmp_path)
    layers = [size if size == "M" else size // 16 for size in torchvision.models.vgg.cfgs["E"]]
    vgg = lambda pretrained: SimpleNamespace(features=torchvision.models.vgg.make_layers(layers))  # noqa: E731
    monkeypatch.setattr(basicsr.archs.vgg_arch.vgg, "vgg19", vgg)
    return tmp_path


def run(folder, options):
    """Check it, then train or test with it; returns both exit codes."""
    path = write_options(folder, {"name": "tiny", "num_gpu": 0, **options})
    return [cli.main([command, "-opt", str(path)]) for command in ("check", "train" if "train" in options else "test")]


PSNR = {"psnr": {"type": "calculate_psnr", "crop_border": 0, "test_y_channel": True}}


def one_by_default(names, default):
    return [pytest.param(name, marks=() if name == default else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", one_by_default(TRAIN, "ECBSR_x2"))
def test_stock_files_train_and_validate_without_a_gpu(folder, capsys, name):
    model, scale, networks, train, (training, validation) = TRAIN[name]
    schedule = {"type": "MultiStepLR", "milestones": [2], "gamma": 0.5}
    options = {
        **{"model_type": model, "scale": scale, "datasets": {"train": training, "val": {**validation, "name": "Vid4"}}},
        **{f"network_{label}": network for label, network in zip("gd", networks, strict=False)},
        **{"train": {"total_iter": 3, "optim_g": ADAM, "scheduler": schedule, **train}},
        **{"val": {"val_freq": 2.0, "save_img": False, "metrics": PSNR}, "path": {"pretrain_network_g": None}},
        **{"dist_params": {"backend": "nccl", "port": 29500}},
        "logger": {"save_checkpoint_freq": 2, "use_tb_logger": True, "wandb": {"project": None, "resume_id": None}},
    }
    assert run(folder, options) == [0, 0]
    log = capsys.readouterr().err
    assert "unknown option" not in log
    assert "Best psnr: " in log
    best = json.loads((folder / "experiments/tiny/models/best.json").read_text())
    assert best["iter"] in (2, 3)
    assert (folder / "experiments/tiny/models/net_g_latest.pth").is_file()
    lines = (folder / "experiments/tiny/metrics.jsonl").read_text().splitlines()
    reached = [json.loads(line)["metrics"]["psnr"] for line in lines]
    assert len(reached) == 2  # after the second iteration, and at the end
    assert all(5 < psnr < 60 for psnr in reached)


@pytest.mark.parametrize("name", one_by_default(TEST, "ESRGAN_x4_woGT"))
def test_stock_files_test_without_a_gpu(folder, name):
    model, network, dataset, more = TEST[name]
    metrics = {} if dataset["type"] == "SingleImageDataset" else {"metrics": PSNR}
    dataset = {"name": "Vid4", **dataset}
    options = {"model_type": model, "scale": 4, "datasets": {"test_1": dataset}, "network_g": network}
    assert run(folder, {**options, "val": {"save_img": True, **metrics, **more}}) == [0, 0]
    assert list((folder / "results/tiny/visualization").rglob("*.png"))
