"""The option files of stock models with NLCL, run as they are but for sizes, length and folders; and their faults."""

import json
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from conftest import photograph
from training_helpers import make_folders, run

from nlcl_plugin.config.check import _check_addon
from nlcl_plugin.errors import InputError
from nlcl_plugin.training.launch import start

SWINIR, ESRGAN = "mix_nlcl_swinir_derain", "mix_nlcl_esrgan"
SHORT = [
    "num_gpu=0", "datasets:train:batch_size_per_gpu=2", "datasets:train:num_worker_per_gpu=1",
    "datasets:train:gt_size=32", "logger:print_freq=1", "logger:save_checkpoint_freq=2", "logger:use_tb_logger=false",
    "val:val_freq=2", "train:nlcl_opt:ramp_iter=2",
    "train:nlcl_opt:layer_opt:sampling:num_rain_patches=16", "train:nlcl_opt:layer_opt:sampling:patch_size=8",
    "train:nlcl_opt:layer_opt:sampling:search_size=16", "network_p:num_feat=8",
]  # fmt: skip
TINY = {
    SWINIR: [*SHORT, "network_g:depths=[2]", "network_g:num_heads=[2]", "network_g:embed_dim=8"],
    ESRGAN: [*SHORT, "network_g:num_feat=8", "network_g:num_block=1", "network_d:num_feat=4"],
}


def make_pairs(root, scale=1):
    """datasets/rain with training and validation pairs; rainy images so much smaller than clean ones."""
    folder = root / "datasets" / "rain"
    folder.mkdir(parents=True)
    make_folders(folder, photograph)
    for path in (folder / "rainy").iterdir():
        path.unlink()
    for split, rainy in (("clean", "rainy"), ("val_clean", "val_rainy")):
        for path in (folder / split).iterdir():
            image = cv2.imread(str(path)).astype(int)
            image[:, ::7] += 60
            small = image.clip(0, 255).astype(np.uint8)[::scale, ::scale]
            cv2.imwrite(str(folder / rainy / path.name), small)


def losses(folder, name):
    lines = (folder / "experiments" / name / "losses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def latest(folder, name):
    paths = sorted((folder / "experiments" / name / "models").glob("net_*_latest.pth"))
    contents = {path.name: torch.load(path, weights_only=True) for path in paths}
    return {name: {key: content[key] for key in content if key != "about"} for name, content in contents.items()}


def train(folder, repository, name, *overrides, resume=False):
    command = ["train", "-opt", repository / "options" / f"{name}.yml", *(["--auto_resume"] if resume else [])]
    done = run(folder, *command, "--force_yml", *TINY[name], *overrides)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_a_model_class_of_ones_own_trains_as_its_page_says(repository, tmp_path):
    make_pairs(tmp_path)
    page = (repository / "docs" / "basicsr.md").read_text(encoding="utf-8")
    (mine,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.py").write_text(mine, encoding="utf-8")
    options = [*TINY[SWINIR], "model_type=MyNLCLModel", "datasets:val=~", "train:total_iter=1"]
    done = subprocess.run(
        [sys.executable, "mine.py", "train", "-opt", repository / "options" / f"{SWINIR}.yml", "--force_yml", *options],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Model [MyNLCLModel] is created" in done.stderr + done.stdout
    assert "l_nlcl" in losses(tmp_path, SWINIR)[0]


def test_esrgan_option_file_trains_at_scale_two_with_an_encoder(repository, tmp_path):
    make_pairs(tmp_path, scale=2)
    changes = ["scale=2", "network_g:upscale=2", "train:total_iter=2", "network_e={type: FeatureEncoder, num_feat: 4}",
               "train:nlcl_opt:features={source: encoder}",
               "train:nlcl_opt:location_opt={type: LocationContrastLoss, sampling: {num_patches: 16}}"]  # fmt: skip
    train(tmp_path, repository, ESRGAN, *changes)
    assert "net_e_latest.pth" in latest(tmp_path, ESRGAN)
    assert "l_nlcl_location" in losses(tmp_path, ESRGAN)[-1]


@pytest.mark.slow
def test_with_weight_zero_the_command_trains_the_stock_model_bit_for_bit(repository, tmp_path_factory):
    found = []
    for changes in (["train:nlcl_opt:loss_weight=0"], ["model_type=SwinIRModel", "train:nlcl_opt=~"]):
        folder = tmp_path_factory.mktemp("run")
        make_pairs(folder)
        train(folder, repository, SWINIR, "train:total_iter=3", *changes)
        found.append(latest(folder, SWINIR))
    weightless, expected = found
    assert set(weightless) - set(expected) == {"net_p_latest.pth"}
    for net, content in expected.items():
        for kind, weights in content.items():
            assert all(torch.equal(weightless[net][kind][key], value) for key, value in weights.items()), (net, kind)


FAULTS = [
    ("train:nlcl_opt:los_weight=1", "train.nlcl_opt.los_weight: unknown option; did you mean 'loss_weight'?"),
    ("train:nlcl_opt:loss_weight=-1", "train.nlcl_opt.loss_weight: input should be greater than or equal to 0"),
    ("train:nlcl_opt:layer_opt:temprature=1", "train.nlcl_opt.layer_opt.temprature: AsymmetricNLCLLoss has no such"),
    ("train:nlcl_opt:layer_opt:temperature=0", "train.nlcl_opt.layer_opt: temperatures must be positive"),
    ("train:nlcl_opt:layer_opt:sampling:taps=[0]", "train.nlcl_opt.layer_opt.sampling.taps: unknown option"),
    ("train:nlcl_opt:layer_opt:type=NLCL", "train.nlcl_opt.layer_opt.type: no loss is named 'NLCL'"),
    ("train:nlcl_opt:features:source=net_d", "train.nlcl_opt.features.source: input should be 'discriminator', "),
    ("train:nlcl_opt:features:modules=[]", "name at least one of the generator's modules"),
    ("train:nlcl_opt:features:modules=[conv_frist]", "SwinIR has no module 'conv_frist'; did you mean 'conv_first'?"),
    ("train:nlcl_opt:features={source: discriminator, modules: [conv0]}", "net_d, which NLCLSwinIRModel lacks"),
    ("train:nlcl_opt:features={source: encoder}", "network_e is missing: train.nlcl_opt needs an encoder"),
    ("train:nlcl_opt:optim_p={type: Adm, lr: 0.1}", "train.nlcl_opt.optim_p.type: torch.optim has no 'Adm'"),
    ("scale=2", "scale: is 2, but network_g enlarges by 1; change one (network_g.upscale)"),
    ("train:nlcl_opt=3", "train.nlcl_opt: expected a block, but received 3"),
    ("train:nlcl_opt:layer_opt:sampling:num_image_patches=400", "train.nlcl_opt with crops of 32 pixels: "),
]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    make_pairs(folder)
    return folder


@pytest.mark.parametrize(("change", "message"), FAULTS)
def test_a_fault_of_the_block_is_told_before_anything_is_written(repository, pairs, monkeypatch, change, message):
    monkeypatch.chdir(pairs)
    file = str(repository / "options" / f"{SWINIR}.yml")
    changes = [change, "datasets:val=~"] if change == "scale=2" else [change]  # or the pairs' sizes are refused first
    with pytest.raises(InputError) as caught:
        start(file, is_train=True, force_yml=[*TINY[SWINIR], *changes])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (pairs / "experiments").exists()


def test_a_model_that_ignores_the_block_is_warned_about(repository, pairs, monkeypatch):
    monkeypatch.chdir(pairs)
    file = str(repository / "options" / f"{SWINIR}.yml")
    with pytest.warns(UserWarning, match="SwinIRModel ignores it; use NLCLSwinIRModel"):
        start(file, is_train=True, force_yml=[*TINY[SWINIR], "model_type=SwinIRModel"])


@pytest.mark.parametrize("model", ["EDVRModel", "VideoRecurrentModel", "StyleGAN2Model"])
def test_no_mixin_is_advised_to_models_in_which_none_can_work(model):
    train = {"nlcl_opt": {}}
    with pytest.warns(UserWarning, match=f"train.nlcl_opt: {model} ignores it; it compares an image .*: take it out"):
        _check_addon(MODEL_REGISTRY.get(model), train)
    assert train == {}


@pytest.mark.slow
def test_a_stock_training_goes_on_with_the_losses_added(repository, tmp_path):
    make_pairs(tmp_path)
    stock = ["model_type=SwinIRModel", "train:nlcl_opt=~"]
    command = ["train", "-opt", repository / "options" / f"{SWINIR}.yml", "--force_yml"]
    sizes = [entry for entry in TINY[SWINIR] if "nlcl_opt" not in entry]
    done = run(tmp_path, *command, *sizes, *stock, "train:total_iter=2")
    assert done.returncode == 0, done.stderr[-3000:]
    text = train(tmp_path, repository, SWINIR, "train:total_iter=4", resume=True)
    assert ", iteration 2." in text
    assert "these start anew" in text
    assert "l_nlcl" in losses(tmp_path, SWINIR)[-1]
