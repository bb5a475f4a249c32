"""What `nlcl_plugin.mm` registers, and that these parts do what BasicSR's do."""

import itertools
import os
import warnings

import numpy as np
import pytest
import torch
from basicsr.losses import build_loss
from basicsr.metrics import calculate_psnr, calculate_ssim
from conftest import photograph
from mm_helpers import REPOSITORY, python
from mmengine import registry as mm
from mmengine.config import Config

import nlcl_plugin.mm
from nlcl_plugin.data import write_image
from nlcl_plugin.data.image_io import to_tensor
from nlcl_plugin.errors import InputError
from nlcl_plugin.mm.data import AddRenderedRain, EndlessBatchSampler, EpochSampler, PairedImageDataset
from nlcl_plugin.mm.registration import register

NAMES = {
    "MODELS": "LayerGenerator PatchDiscriminator ProjectionHeads ResidualUNet SimpleGateUNet FeatureEncoder "
    "AsymmetricNLCLLoss LocationContrastLoss RelayLoss GANLoss L1Loss MSELoss CharbonnierLoss NLCLDerain "
    "UnitRangePreprocessor",
    "DATASETS": "UnpairedImageDataset PseudoPairDataset PairedImageDataset",
    "TRANSFORMS": "AddRenderedRain",
    "DATA_SAMPLERS": "EpochSampler EndlessBatchSampler",
    "LOOPS": "ResumableTrainLoop",
    "METRICS": "PSNR SSIM NIQE",
    "HOOKS": "CurrentLossesHook LayerStripHook StopOnSignalHook WholeCheckpointHook",
    "OPTIM_WRAPPERS": "Bf16OptimWrapper",
    "OPTIM_WRAPPER_CONSTRUCTORS": "NLCLOptimWrapperConstructor",
}


def test_registering_again_changes_nothing_and_a_taken_name_is_an_error_that_names_both():
    nlcl_plugin.mm.register_in_mmengine()
    registry = mm.Registry("model")
    registry.register_module(module=type("GANLoss", (), {"__module__": "other.package"}))
    with pytest.raises(RuntimeError, match=r"registered in MMEngine's model registry by other\.package"):
        register(registry, mm.MODELS.get("GANLoss"))


BLOCKER = """
import importlib.util, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Blocker())
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in {blocked!r} else real(name, package)
"""


def test_a_config_with_custom_imports_finds_every_part_and_trains_without_basicsr():
    code = BLOCKER.format(blocked={"basicsr"}) + (
        "from mmengine.config import Config\n"
        "from mmengine import registry\n"
        f"Config.fromfile({str(REPOSITORY / 'options/mmengine/nlcl_rain.py')!r})\n"
        f"for where, names in {NAMES!r}.items():\n"
        "    for name in names.split():\n"
        "        assert getattr(registry, where).get(name).__module__.startswith('nlcl_plugin.'), name\n"
        f"sys.path.append({str(REPOSITORY / 'tests' / 'mm')!r})\n"
        "from mm_helpers import batch, build, optimizers\n"
        "model = build()\n"
        "wrappers = optimizers(model)\n"
        "print(*(len(model.train_step(batch(), wrappers)) for stage in (1, 2)), 'basicsr' in sys.modules)\n"
    )
    done = python(code)
    assert done.stdout.splitlines()[-1:] == ["9 2 False"], done.stderr


def test_without_mmengine_the_error_says_what_to_install():
    done = python(BLOCKER.format(blocked={"basicsr", "mmengine"}) + "import nlcl_plugin.mm")
    assert "nlcl_plugin.mm needs MMEngine, which is not installed: pip install" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("is_disc", [False, True])
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("gan_type", ["vanilla", "lsgan", "hinge"])
def test_adversarial_losses_equal_basicsrs(gan_type, real, is_disc):
    options = {"type": "GANLoss", "gan_type": gan_type, "loss_weight": 0.3}
    judged = torch.randn(2, 1, 5, 4)
    expected = build_loss(options)(judged, real, is_disc=is_disc)
    assert torch.equal(mm.MODELS.build(dict(options))(judged, real, is_disc=is_disc), expected)


@pytest.mark.parametrize("options", [{"type": "L1Loss"}, {"type": "MSELoss"}, {"type": "CharbonnierLoss", "eps": 1e-3}])
def test_pixel_losses_equal_basicsrs(options):
    first, second = torch.rand(2, 2, 3, 8, 8)
    options = {**options, "loss_weight": 0.7}
    torch.testing.assert_close(mm.MODELS.build(dict(options))(first, second), build_loss(options)(first, second))


def test_metrics_equal_basicsrs():
    clean = photograph(64, 72)
    noisy = (clean + np.random.default_rng(0).normal(0, 9, clean.shape)).clip(0, 255).round().astype(np.uint8)
    for name, function in (("PSNR", calculate_psnr), ("SSIM", calculate_ssim)):
        metric = mm.METRICS.build({"type": name})
        metric.process(None, [{"result": to_tensor(noisy), "gt": to_tensor(clean)}, {"result": to_tensor(noisy)}])
        found = metric.evaluate(1)[f"derained/{name.lower()}"]
        assert found == pytest.approx(function(noisy, clean, crop_border=0), rel=1e-6)


def test_niqe_needs_no_ground_truth():
    metric = mm.METRICS.build({"type": "NIQE"})
    metric.process(None, [{"result": to_tensor(photograph(200, 210))}])
    assert np.isfinite(metric.evaluate(1)["derained/niqe"])


def test_pairs_are_read_by_name_and_one_without_a_partner_is_refused(tmp_path):
    for folder, suffix in (("rainy", "png"), ("clean", "bmp")):
        for name in ("a", "b"):
            write_image(tmp_path / folder / f"{name}.{suffix}", to_tensor(photograph(8, 9, seed=ord(name))))
    options = {"dataroot_lq": str(tmp_path / "rainy"), "dataroot_gt": str(tmp_path / "clean")}
    pairs = PairedImageDataset(options)
    assert len(pairs) == 2
    torch.testing.assert_close(pairs[1]["lq"], pairs[1]["gt"])
    assert pairs[1]["gt_path"].endswith("b.bmp")
    (tmp_path / "clean" / "b.bmp").unlink()
    with pytest.raises(InputError, match="1 images have no partner, or several, such as b"):
        PairedImageDataset(options)


def test_validation_pairs_are_found_by_their_whole_names_where_only_endings_differ(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("a.png", "a.jpg", "b.png")
    for folder in ("rainy", "clean"):
        for seed, name in enumerate(names):
            write_image(tmp_path / folder / name, to_tensor(photograph(8, 9, seed=seed)))
    options = {"dataroot_lq": "~/rainy", "dataroot_gt": "~/clean"}
    pairs = PairedImageDataset(options)
    assert sorted((os.path.basename(p["lq_path"]), os.path.basename(p["gt_path"])) for p in pairs) == sorted(
        zip(names, names, strict=True)
    )
    (tmp_path / "clean/a.png").rename(tmp_path / "clean/a.bmp")
    (tmp_path / "clean/a.jpg").unlink()
    with pytest.raises(InputError, match=r"images have no partner, or several, such as a\.bmp"):
        PairedImageDataset(options)


def test_a_sampler_that_tells_no_epoch_is_warned_about_once(tmp_path):
    for folder in ("rainy", "clean"):
        write_image(tmp_path / folder / "a.png", to_tensor(photograph(8, 9)))
    options = {"phase": "train", "gt_size": 8, "dataroot_lq": tmp_path / "rainy", "dataroot_gt": tmp_path / "clean"}
    dataset = mm.DATASETS.build({"type": "UnpairedImageDataset", "opt": options})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset[next(iter(EpochSampler(dataset)))]
    with pytest.warns(UserWarning, match="the same crops, flips and partners.*EpochSampler") as told:
        assert torch.equal(dataset[0]["lq"], dataset[0]["lq"])
    assert len(told) == 1


def test_batches_are_endless_whole_and_go_on_at_any_place():
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


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_rendered_rain_only_brightens_and_keeps_the_type(kind):
    clean = photograph(32, 40) if kind == np.uint8 else photograph(32, 40).astype(np.float32) / 255
    results = mm.TRANSFORMS.build({"type": "AddRenderedRain", "render": {"density": (0.01, 0.02)}})({"gt": clean})
    assert results["lq"].dtype == clean.dtype
    assert results["lq"].shape == clean.shape
    assert (results["lq"] >= clean).all()
    assert (results["lq"] > clean).mean() > 0.01
    torch.manual_seed(0)
    first = AddRenderedRain()({"gt": clean})["lq"]
    torch.manual_seed(0)
    assert (AddRenderedRain()({"gt": clean})["lq"] == first).all()


def test_the_config_has_the_losses_and_networks_of_the_quickstart():
    import yaml

    config = Config.fromfile(REPOSITORY / "options" / "mmengine" / "nlcl_rain.py").to_dict()
    quickstart = yaml.safe_load((REPOSITORY / "options" / "nlcl_quickstart.yml").read_text(encoding="utf-8"))
    block = {key: value for key, value in quickstart["train"].items() if key.endswith("_opt") or key == "ema_decay"}
    block["restorer_opt"]["pixel_opt"]["eps"] = float(block["restorer_opt"]["pixel_opt"]["eps"])
    assert config["model"]["train_cfg"] == block
    for label, name in (("g", "generator"), ("d", "discriminator"), ("p", "heads"), ("s", "restorer")):
        assert config["model"][name] == quickstart[f"network_{label}"]
    assert config["iterations"] == quickstart["train"]["total_iter"]
