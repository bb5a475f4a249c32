"""The option files that we ship, run as they are but for their length and the folders."""

import json

import cv2
import pytest
from conftest import photograph
from helpers import make_folders, run

SHORT_QUICKSTART = ["train:total_iter=6", "train:restorer_opt:start_iter=4", "val:val_freq=3", "logger:print_freq=2"]


def test_quickstart_makes_its_data_and_ends_with_figures(repository, tmp_path):
    options = repository / "options" / "nlcl_quickstart.yml"
    done = run(tmp_path, "train", "-opt", options, "--force_yml", *SHORT_QUICKSTART)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    summary = json.loads((tmp_path / "experiments/nlcl_quickstart/summary.json").read_text())
    assert set(summary["datasets"]) == {"additive", "screen"}
    assert summary["psnr"] == summary["datasets"]["additive"]["psnr"]
    assert (tmp_path / "datasets/nlcl_demo/LICENSES.txt").is_file()
    assert list((tmp_path / "tb_logger/nlcl_quickstart").glob("events*"))

    make_folders(tmp_path, photograph)
    override = "datasets:test:dataroot_lq=rainy"
    done = run(tmp_path, "test", "-opt", repository / "options" / "nlcl_test.yml", "--force_yml", override)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "results/nlcl_test/visualization/photographs").iterdir())) == 3


@pytest.mark.slow
def test_paper_setting_takes_a_step_on_a_cpu(repository, tmp_path):
    root = tmp_path / "datasets" / "rain"
    root.mkdir(parents=True)
    make_folders(root, photograph)
    cv2.imwrite(str(root / "rainy" / "large.JPG"), photograph(300, 280))
    overrides = ["train:total_iter=2", "logger:print_freq=1", "datasets:train:num_worker_per_gpu=1"]
    done = run(tmp_path, "train", "-opt", repository / "options" / "nlcl.yml", "--force_yml", *overrides)
    assert done.returncode == 0, done.stderr
    assert "net_g: LayerGenerator, 316,195 parameters" in done.stderr
    for name in ("l_g_gan", "l_location", "l_layer", "l_layer_above_floor", "l_consistency", "l_fidelity"):
        assert name in done.stderr
    assert len(list((tmp_path / "experiments/nlcl/models").glob("net_[grdp]_latest.pth"))) == 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_reaches_what_is_promised(repository, tmp_path, seed):
    options = repository / "options" / "nlcl_quickstart.yml"
    done = run(tmp_path, "train", "-opt", options, "--force_yml", f"manual_seed={seed}", timeout=900)
    assert done.returncode == 0, done.stderr
    psnr = json.loads((tmp_path / "experiments/nlcl_quickstart/summary.json").read_text())["psnr"]
    assert psnr["derained"] - psnr["rainy"] >= 7
    assert psnr["derained"] - psnr["baseline"] >= 0.5
    assert psnr["clean"] > 34


@pytest.mark.slow
def test_quickstart_recipe_holds_on_rain100h(repository, tmp_path, shared_data):
    options = repository / "options" / "nlcl_quickstart.yml"
    data = shared_data / "rain100h"
    overrides = ["demo_data=~", "datasets:val_2=~", "datasets:train:dataset_enlarge_ratio=10"]
    for split, key, folder in (
        ("train", "lq", "train_rainy"),
        ("train", "gt", "train_clean"),
        ("val", "lq", "val_rainy"),
        ("val", "gt", "val_clean"),
    ):
        overrides.append(f"datasets:{split}:dataroot_{key}={data / folder}")
    done = run(tmp_path, "train", "-opt", options, "--force_yml", *overrides, timeout=900)
    assert done.returncode == 0, done.stderr
    psnr = json.loads((tmp_path / "experiments/nlcl_quickstart/summary.json").read_text())["psnr"]
    assert psnr["derained"] - psnr["rainy"] >= 8
