"""Stage 2 alone: a restorer on rendered rain, and then on the rain that it extracts itself."""

import copy

import pytest
import torch
from model_helpers import ADAM, batch, build, options, step

from nlcl_plugin.errors import InputError

STAGE_ONE = ("gan_opt", "location_opt", "layer_opt", "identity_opt", "fidelity_opt", "relay_opt")


def alone(tmp_path, rounds=(), **more):
    """Options of a training without losses, optimizers and networks of stage 1."""
    restorer = {"start_iter": 0, "rounds": list(rounds), "threshold": 0.0, **more.pop("restorer", {})}
    opt = options(tmp_path, restorer_opt=restorer, optim_s=ADAM, min_mean_rain=0, **more)
    for key in (*STAGE_ONE, "optim_g"):
        del opt["train"][key]
    for label in "grdp":
        del opt[f"network_{label}"]
    return opt


def weights_after(model, steps, **of_batch):
    for current_iter in range(1, steps + 1):
        model.update_learning_rate(current_iter)
        model.feed_data({**batch(current_iter), **of_batch})
        model.optimize_parameters(current_iter)
    return copy.deepcopy(model.net_s.state_dict())


def test_only_the_restorer_is_built_trained_saved_and_used(tmp_path):
    model = build(alone(tmp_path))
    assert set(model.nets) == set(model.averages) == {"s"}
    before = copy.deepcopy(model.net_s.state_dict())
    assert set(step(model, 1)) == {"l_restorer"}
    assert all(not torch.equal(before[name], value) for name, value in model.net_s.state_dict().items())
    assert model.get_current_learning_rate() == [1e-3]
    model.test()
    assert torch.equal(model.output, model.averages["s"](model.lq))
    model.save(0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.state", "net_s_1.pth"]


def test_rainy_images_play_no_part_until_the_first_round_and_then_do(tmp_path):
    """Until then all rain is rendered."""
    dark = {"lq": torch.zeros(2, 3, 32, 32)}
    for steps, equal in ((2, True), (3, False)):
        one, other = (weights_after(build(alone(tmp_path, rounds=[2])), steps, **of) for of in ({}, dark))
        assert all(torch.equal(one[name], other[name]) for name in one) == equal


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"restorer": {"start_iter": 2}}, "no loss of stage 1 is given"),
        ({"restorer": {"rounds": [-1]}}, "rounds must be rising iterations of stage 2, from 0"),
        ({"gan_opt": {"type": "GANLoss"}}, "optim_g is missing"),
        ({"restorer": {"round_gain": [1.0, 1.2]}}, "restorer_opt.round_gain: there are no rounds"),
        ({"dimension_freq": 25}, "dimension_freq: dimensions are measured in stage 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, changes, message):
    opt = alone(tmp_path, **{key: value for key, value in changes.items() if key == "restorer"})
    opt["train"].update({key: value for key, value in changes.items() if key != "restorer"})
    with pytest.raises((InputError, ValueError), match=message):
        build(opt)
