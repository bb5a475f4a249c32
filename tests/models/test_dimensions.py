import math

import pytest
import torch
from model_helpers import batch, build, options, step

from nlcl_plugin.models.unpaired_losses import DIMENSIONS, measure_dimensions
from nlcl_plugin.ops import dimension_ratio, layer_dimensions
from nlcl_plugin.rain.batch_random import BatchRandom

AUTO = {
    "dimension_freq": 2,
    "layer_opt": {
        "type": "AsymmetricNLCLLoss",
        "asymmetry": "auto",
        "sampling": {"taps": [0, 2, 5], "num_image_patches": 4, "num_rain_patches": 6, "patch_size": 8}
        | {"search_size": 16},
    },
}


def test_measurements_are_means_over_images_and_do_not_depend_on_the_split():
    images = batch(n=4, size=64)
    image, rain = images["lq"], 0.3 * images["gt"][:, :1]
    rain[2] = 0  # nothing to measure
    whole = measure_dimensions(image, rain, BatchRandom(0, 1, range(4), 4))
    halves = [measure_dimensions(image[h], rain[h], BatchRandom(0, 1, range(4)[h], 4)) for h in (slice(2), slice(2, 4))]
    for name in DIMENSIONS:
        torch.testing.assert_close(whole[name], (halves[0][name] + halves[1][name]) / 2)
    seeds = torch.randint(2**62, (4,), generator=BatchRandom(0, 1, range(4), 4).generator).tolist()
    each = [
        layer_dimensions(image[i : i + 1], rain[i : i + 1], generator=torch.Generator().manual_seed(seeds[i]))
        for i in range(4)
    ]
    assert math.isnan(each[2][1])
    assert whole["dim_image"].item() == pytest.approx(sum(d for d, _ in each) / 4, rel=1e-5)
    assert whole["log_dim_ratio"].item() == pytest.approx(
        sum(math.log(dimension_ratio(*d)) for d in each) / 4, rel=1e-5
    )


def test_dimensions_are_logged_when_due_and_change_no_step(tmp_path):
    plain = build(options(tmp_path))
    measured = build(options(tmp_path, dimension_freq=2))
    for current_iter in (1, 2, 3):
        expected, log = step(plain, current_iter, size=48), step(measured, current_iter, size=48)
        assert (set(DIMENSIONS) <= set(log)) == (current_iter == 2)
        assert {name: value for name, value in log.items() if name not in DIMENSIONS} == expected


def test_temperatures_follow_and_are_resumed(tmp_path):
    model = build(options(tmp_path, "two_branch", **AUTO))
    for current_iter in (1, 2):
        log = step(model, current_iter, size=48)
    assert log["log_dim_ratio"] != 0
    image, rain = model.losses.cri_layer.temperatures()
    assert (image / rain).item() == pytest.approx(math.exp(log["log_dim_ratio"]), rel=1e-5)
    model.save(0, 2)
    resumed = build(options(tmp_path, "two_branch", **AUTO))
    resumed.resume_training(torch.load(tmp_path / "2.state", weights_only=True))
    assert resumed.losses.cri_layer.temperatures() == (image, rain)


def test_automatic_asymmetry_without_measurements_is_refused(tmp_path):
    with pytest.raises(ValueError, match="add dimension_freq"):
        build(options(tmp_path, **{**AUTO, "dimension_freq": 0}))
