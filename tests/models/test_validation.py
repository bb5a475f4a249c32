import csv
import logging
import math

import cv2
import numpy as np
import pytest
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import METRIC_REGISTRY
from conftest import photograph
from mmengine.registry import METRICS
from model_helpers import RESTORER, batch, build, options, step

import nlcl_plugin.mm  # noqa: F401  its metrics
from nlcl_plugin.data.image_io import to_tensor, write_image
from nlcl_plugin.inference.measures import measure
from nlcl_plugin.models.validation import ValidationMixin, _output_name, _write_csv
from nlcl_plugin.report.page import _psnr
from nlcl_plugin.training.summary import summarise


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("rainy/a.png", "rainy", "a"),
        ("rainy/night/a.b.JPG", "rainy/", "night/a.b"),
        ("/data/rainy2/a.png", "/data/rainy", "a"),
        ("../up/a.png", "rainy", "a"),
        ("key", None, "key"),
        ("..", None, "_"),
        ("rainy/../..", "rainy", "_"),
        ("a\0b", None, "a_b"),
    ],
)
def test_outputs_keep_their_place_below_the_root_and_never_leave_it(path, root, expected):
    assert _output_name(path, root, set()) == expected


class Unchanging:
    """Returns what it gets."""

    def __init__(self, folder, metrics=None):
        path = {"visualization": str(folder / "visualization")}
        self.opt = {"is_train": True, "dist": False, "path": path, "val": {"metrics": metrics}}

    def feed_data(self, data):
        self.lq, self.gt = data["lq"], data.get("gt")

    def test(self):
        self.output = self.lq

    def get_current_visuals(self):
        visuals = {"lq": self.lq, "result": self.output, "rain": torch.zeros_like(self.lq), "gt": self.gt}
        return {key: image for key, image in visuals.items() if image is not None}


class Ours(Unchanging, ValidationMixin):
    pass


class Stock(Unchanging, SRModel):
    pass


class Pairs(list):
    opt = {"name": "pairs"}  # noqa: RUF012


def pairs(*images):
    """A loader of pairs of a dark and a light image each, in the order of their names."""
    items = [{"lq": to_tensor(rainy), "gt": to_tensor(clean)} for rainy, clean in images]
    return torch.utils.data.DataLoader(Pairs({**item, "lq_path": f"{i}.png"} for i, item in enumerate(items)))


@pytest.fixture
def log(caplog):
    logger = logging.getLogger("basicsr")
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, "basicsr"):
        yield caplog
    logger.removeHandler(caplog.handler)


STOCK_METRICS = {
    "psnr": {"type": "calculate_psnr", "crop_border": 0},
    "ssim": {"type": "calculate_ssim", "crop_border": 0},
}


@pytest.mark.parametrize("equal", [False, True])
def test_equal_and_small_pairs_have_the_same_figures_everywhere(tmp_path, equal):
    clean = photograph(8, 9)
    rainy = clean if equal else np.minimum(clean, 240) + 9
    found = {}
    for kind in (Ours, Stock):
        model = kind(tmp_path, STOCK_METRICS)
        model.nondist_validation(pairs((rainy, clean)), 1, None, False)
        found[kind] = model.metric_results
    summary = summarise(Ours(tmp_path), [pairs((rainy, clean))], str(tmp_path))
    found["summary"] = {key: summary[key]["derained"] for key in ("psnr", "ssim")}
    write_image(tmp_path / "truth" / "a.png", to_tensor(clean))
    measured = measure(rainy, rainy, False, tmp_path / "truth" / "a.png", 10**6)
    found["derain"] = {key: measured[key] for key in ("psnr", "ssim")}
    found["mm"] = {}
    for name in ("PSNR", "SSIM"):
        metric = METRICS.build({"type": name})
        metric.process(None, [{"result": to_tensor(rainy), "gt": to_tensor(clean)}])
        found["mm"][name.lower()] = metric.evaluate(1)[f"derained/{name.lower()}"]
    assert all(figures == pytest.approx(found["mm"]) for figures in found.values())
    assert all(map(math.isfinite, found["mm"].values()))
    if equal:
        assert found["mm"] == pytest.approx({"psnr": 100, "ssim": 1})
    assert _psnr(to_tensor(rainy), to_tensor(clean)) == f"{found['mm']['psnr']:.2f} dB"


@pytest.fixture
def odd(monkeypatch):
    """A metric of a user that has no value for dark images."""
    values = {"none": None, "nan": math.nan}

    def odd(img, img2, missing, offset=0):
        return values[missing] if img.max() < 10 else img.mean() - offset

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, "odd", odd)
    return odd


DARK, LIGHT = np.zeros((12, 12, 3), np.uint8), np.full((12, 12, 3), 90, np.uint8)


@pytest.mark.parametrize(("missing", "better", "last"), [("none", "lower", 70), ("nan", "higher", 90)])
def test_an_image_without_a_value_is_left_out_and_named(tmp_path, odd, log, missing, better, last):
    model = Ours(tmp_path, {"odd": {"type": "odd", "missing": missing, "better": better}})
    found = []
    for i, rainy in enumerate([(DARK, DARK), (LIGHT, DARK), (DARK, LIGHT - 20)], start=1):
        model.nondist_validation(pairs(*((image, LIGHT) for image in rainy)), i, None, False)
        found.append(model.metric_results)
    assert found == [{}, {"odd": 90}, {"odd": 70}]
    best = {"better": better, "val": last, "iter": 3 if better == "lower" else 2}
    assert model.best_metric_results == {"pairs": {"odd": best}}
    assert "odd (over 0 of 2 images; none for 0, 1)" in log.messages[0]
    assert "odd 90.0000 (over 1 of 2 images; none for 1) (best 90.0000 @ 2)" in log.messages[1]
    assert "odd 70.0000 (over 1 of 2 images; none for 0)" in log.messages[2]


def test_an_image_that_is_not_finite_has_no_figures(tmp_path, log):
    loader = pairs((LIGHT, LIGHT), (DARK, LIGHT))
    loader.dataset[1]["lq"] = loader.dataset[1]["lq"] * math.nan
    model = Ours(tmp_path)
    model.nondist_validation(loader, 1, None, False)
    assert model.metric_results == pytest.approx({"psnr": 100, "ssim": 1})
    assert "psnr 100.0000 (over 1 of 2 images; none for 1)" in log.messages[-1]


def test_small_photographs_have_no_niqe_and_the_log_says_so(tmp_path, log):
    model = Ours(tmp_path)
    loader = torch.utils.data.DataLoader(Pairs([{"lq": to_tensor(LIGHT), "lq_path": "a.png"}]))
    model.nondist_validation(loader, 1, None, False)
    assert model.metric_results == {}
    assert "niqe (over 0 of 1 images; none for a)" in log.messages[-1]
    _write_csv(str(tmp_path / "m.csv"), [{"image": "a", "psnr": 20.0, "niqe": math.nan}])
    assert list(csv.DictReader((tmp_path / "m.csv").open())) == [{"image": "a", "niqe": "", "psnr": "20.0"}]


class Pictures(list):
    """A TensorBoard writer that keeps the pictures."""

    def add_image(self, tag, picture, *_, **__):
        self.append(picture)

    def add_scalar(self, *_): ...


def test_a_grey_rain_layer_is_trained_shown_and_saved_like_any_other(tmp_path):
    opt = options(tmp_path, "two_branch", **RESTORER, min_mean_rain=0, dimension_freq=1)
    opt["network_r"]["num_out_ch"] = 1
    model, shown = build(opt), Pictures()
    one = {key: value[0] for key, value in batch().items()} | {"lq_path": "0.png"}
    model.nondist_validation(torch.utils.data.DataLoader(Pairs([one])), 1, shown, save_img=True)
    rain = model.nets["r"](model.lq)
    assert rain.shape[1] == 1
    assert model.get_current_visuals()["rain"].shape == model.lq.shape
    strip = cv2.imread(str(tmp_path / "v/pairs/0/0_1.png"))
    assert strip.shape == shown[0].shape == (32, 96, 3)
    grey = (rain[0, 0].detach().clamp(0, 1) * 255).round().numpy()
    for layer in (strip, shown[0]):
        assert np.abs(layer[:, 64:] - grey[..., None]).max() <= 1
    for current_iter in range(1, 5):  # both stages
        step(model, current_iter)
