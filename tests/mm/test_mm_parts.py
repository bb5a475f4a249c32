"""What `nlcl_plugin.mm` registers, and that these parts do what BasicSR's do."""

import itertools
import os
import warnings

import numpy as np
import pytest
import yaml
from basicsr.metrics import calculate_psnr, calculate_ssim
from conftest import photograph
from mm_helpers import REPOSITORY
from mmengine import registry as mm
from mmengine.config import Config

import nlcl_plugin.mm
from nlcl_plugin.data import write_image
from nlcl_plugin.data.image_io import to_tensor
from nlcl_plugin.errors import InputError
from nlcl_plugin.mm.data import EndlessBatchSampler, EpochSampler, PairedImageDataset

NAMES = {
    "MODELS": "LayerGenerator PatchDiscriminator ProjectionHeads ResidualUNet SimpleGateUNet ContextUNet "
    "FeatureEncoder AsymmetricNLCLLoss LocationContrastLoss RelayLoss GANLoss L1Loss MSELoss CharbonnierLoss "
    "NLCLDerain UnitRangePreprocessor",
    "DATASETS": "UnpairedImageDataset PseudoPairDataset PairedImageDataset",
    "DATA_SAMPLERS": "EpochSampler EndlessBatchSampler",
    "LOOPS": "ResumableTrainLoop",
    "METRICS": "PSNR SSIM NIQE",
    "HOOKS": "CurrentLossesHook LayerStripHook StopOnSignalHook WholeCheckpointHook",
    "OPTIM_WRAPPERS": "Bf16OptimWrapper",
    "OPTIM_WRAPPER_CONSTRUCTORS": "NLCLOptimWrapperConstructor",
}


def test_every_part_is_registered_and_a_name_taken_by_another_package_is_an_error(monkeypatch):
    nlcl_plugin.mm.register_in_mmengine()  # again, which changes nothing
    for registry, names in NAMES.items():
        for name in names.split():
            assert getattr(mm, registry).get(name).__module__.startswith(("nlcl_plugin.", "basicsr.losses")), name
    monkeypatch.setitem(mm.MODELS.module_dict, "GANLoss", type("GANLoss", (), {"__module__": "other.package"}))
    with pytest.raises(KeyError, match=r"GANLoss is already registered in model at other\.package"):
        nlcl_plugin.mm.register_in_mmengine()


def test_metrics_are_basicsrs_means_and_niqe_needs_no_ground_truth():
    clean = photograph(200, 210)
    noisy = (clean + np.random.default_rng(0).normal(0, 9, clean.shape)).clip(0, 255).round().astype(np.uint8)
    for name, function in (("PSNR", calculate_psnr), ("SSIM", calculate_ssim)):
        metric = mm.METRICS.build({"type": name})
        metric.process(None, [{"result": to_tensor(noisy), "gt": to_tensor(clean)}, {"result": to_tensor(noisy)}])
        found = metric.evaluate(1)[f"derained/{name.lower()}"]
        assert found == pytest.approx(function(noisy, clean, crop_border=0), rel=1e-6)
    metric = mm.METRICS.build({"type": "NIQE"})
    metric.process(None, [{"result": to_tensor(clean)}])
    assert np.isfinite(metric.evaluate(1)["derained/niqe"])


def test_validation_pairs_are_found_by_their_names(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("rainy/a.png", "clean/a.bmp", "rainy/b.png", "clean/b.png"):
        write_image(tmp_path / name, to_tensor(photograph(8, 9)))
    options = {"dataroot_lq": "~/rainy", "dataroot_gt": "~/clean"}
    pairs = list(PairedImageDataset(options))
    assert {os.path.basename(pair["gt_path"]): pair["gt"].shape for pair in pairs} == {
        "a.bmp": (3, 8, 9),
        "b.png": (3, 8, 9),
    }
    (tmp_path / "clean/a.bmp").unlink()
    with pytest.raises(InputError, match="1 images have no partner, or several, such as a"):
        PairedImageDataset(options)


def test_a_sampler_without_epochs_is_warned_about(tmp_path):
    for folder in ("rainy", "clean"):
        write_image(tmp_path / folder / "a.png", to_tensor(photograph(8, 9)))
    options = {"phase": "train", "gt_size": 8, "dataroot_lq": tmp_path / "rainy", "dataroot_gt": tmp_path / "clean"}
    dataset = mm.DATASETS.build({"type": "UnpairedImageDataset", "opt": options})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset[next(iter(EpochSampler(dataset)))]
    with pytest.warns(UserWarning, match="the same crops, flips and partners.*EpochSampler"):
        dataset[0]


def test_batches_are_endless_whole_and_continue_at_any_place():
    sampler = EpochSampler(range(5), ratio=1.4)  # 7 draws: 3 batches of 2
    batches = EndlessBatchSampler(sampler, batch_size=2)
    found = list(itertools.islice(batches, 8))
    assert [batch[0].epoch for batch in found] == [0, 0, 0, 1, 1, 1, 2, 2]
    assert all(len(batch) == 2 for batch in found)
    sampler.set_epoch(1)
    assert [draw for batch in found[3:6] for draw in batch] == list(sampler)[:6]
    again = EndlessBatchSampler(sampler, batch_size=2)
    again.start_at(4)
    assert list(itertools.islice(again, 4)) == found[4:]
    with pytest.raises(InputError, match="7 images of each process don't fill one batch of 8"):
        EndlessBatchSampler(sampler, batch_size=8)


def test_the_config_has_the_losses_and_networks_of_the_quickstart():
    config = Config.fromfile(REPOSITORY / "options" / "mmengine" / "nlcl_rain.py").to_dict()
    quickstart = yaml.safe_load((REPOSITORY / "options" / "nlcl_quickstart.yml").read_text(encoding="utf-8"))
    block = {key: value for key, value in quickstart["train"].items() if key.endswith("_opt") or key == "ema_decay"}
    block["restorer_opt"]["pixel_opt"]["eps"] = float(block["restorer_opt"]["pixel_opt"]["eps"])
    assert config["model"]["train_cfg"] == block
    for label, name in (("g", "generator"), ("d", "discriminator"), ("p", "heads"), ("s", "restorer")):
        assert config["model"][name] == quickstart[f"network_{label}"]
    assert config["iterations"] == quickstart["train"]["total_iter"]
