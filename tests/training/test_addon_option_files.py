"""The option files of stock models with NLCL, run as they are except for sizes, length and folders."""

import re
import sys

import cv2
import numpy as np
from conftest import REPOSITORY
from training_helpers import make_folders

from nlcl_plugin import cli
from nlcl_plugin.training.json_log import read_json_lines

SWINIR, ESRGAN = "mix_nlcl_swinir_derain", "mix_nlcl_esrgan"
SHORT = [
    "num_gpu=0", "datasets:train:batch_size_per_gpu=2", "datasets:train:num_worker_per_gpu=0",
    "datasets:train:persistent_workers=~", "datasets:train:gt_size=32", "logger:print_freq=1",
    "logger:save_checkpoint_freq=2", "logger:use_tb_logger=false", "val:val_freq=2", "train:nlcl_opt:ramp_iter=2",
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
    make_folders(folder)
    for path in (folder / "rainy").iterdir():
        path.unlink()
    for split, rainy in (("clean", "rainy"), ("val_clean", "val_rainy")):
        for path in (folder / split).iterdir():
            image = cv2.imread(str(path)).astype(int)
            image[:, ::7] += 60
            small = image.clip(0, 255).astype(np.uint8)[::scale, ::scale]
            cv2.imwrite(str(folder / rainy / path.name), small)


def losses(folder, name):
    return read_json_lines(folder / "experiments" / name / "losses.jsonl")


def test_a_model_class_of_ones_own_trains_as_its_page_says(tmp_path, monkeypatch):
    make_pairs(tmp_path)
    page = (REPOSITORY / "docs" / "basicsr.md").read_text(encoding="utf-8")
    mine, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "my_model.py").write_text(mine, encoding="utf-8")
    options = [*TINY[SWINIR], "model_type=MyNLCLModel", "datasets:val=~", "train:total_iter=1"]
    path = str(REPOSITORY / "options" / f"{SWINIR}.yml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert cli.main(["train", "-opt", path, "--import", "models.my_model", "--force_yml", *options]) == 0
    assert "l_nlcl" in losses(tmp_path, SWINIR)[0]
