import copy

import pytest
import torch
from model_helpers import ADAM, RESTORER, batch, build, options, step

from nlcl_plugin.errors import TrainingStoppedError
from nlcl_plugin.models.optimization import own_random_stream


@pytest.mark.parametrize("decomposition", ["residual", "two_branch"])
def test_all_losses_are_logged_and_change_every_trainable_tensor_of_every_network(tmp_path, decomposition):
    model = build(options(tmp_path, decomposition, **RESTORER))
    two = decomposition == "two_branch"
    assert set(model.nets) == {"g", "d", "p", "s", *(["r"] if two else [])}
    before = {label: copy.deepcopy(net.state_dict()) for label, net in model.nets.items()}
    log = step(model, 1)
    expected = {"l_g_gan", "l_d", "l_location", "l_layer", "l_layer_above_floor", "l_identity", "l_fidelity", "l_relay"}
    assert set(log) == expected | {"mean_rain"} | ({"l_consistency"} if two else set())
    assert 0 < log["l_layer_above_floor"] < log["l_layer"]
    for current_iter in range(2, 5):
        step(model, current_iter)
    for label, net in model.nets.items():
        for name, value in net.named_parameters():
            assert not torch.equal(value, before[label][name]), f"net_{label}: {name} never changes"


def test_ramps_scale_the_loss_that_is_minimised(tmp_path):
    def gradient(ramp_iter):
        model = build(options(tmp_path, gan_opt=None, location_opt=None, layer_opt=None, fidelity_opt=None,
                              identity_opt=None, relay_opt={"type": "RelayLoss", "ramp_iter": ramp_iter},
                              optim_g={"type": "SGD", "lr": 0.1}))  # fmt: skip
        step(model, 1)
        return model.net_g.head.weight.grad

    torch.testing.assert_close(gradient(10) * 10, gradient(0))


def test_stage_two_trains_only_the_restorer_which_then_derains(tmp_path):
    model = build(options(tmp_path, **RESTORER))
    for current_iter in (1, 2):
        step(model, current_iter)
        assert not model.restoring
    held = {label: copy.deepcopy(model.nets[label].state_dict()) for label in ("g", "d", "p")}
    for current_iter in (3, 4, 5):
        assert set(step(model, current_iter)) == {"l_restorer", "mean_rain"}
    for label, state in held.items():
        assert all(torch.equal(v, state[k]) for k, v in model.nets[label].state_dict().items())
    model.feed_data({"lq": batch()["lq"][:1]})
    model.test()
    assert torch.equal(model.output, model.averages["s"](model.lq))


@pytest.mark.parametrize(
    ("start_iter", "expected"),
    [(4, [1e-3, 1e-3, 1e-3, 5e-4, 1e-2, 1e-2, 1e-2, 5e-3]), (0, [1e-2] * 5 + [7.5e-3, 5e-3, 2.5e-3])],
)
def test_learning_rate_of_each_stage_falls_over_its_own_iterations(tmp_path, start_iter, expected):
    restorer = {"restorer_opt": {"start_iter": start_iter}, "optim_s": {"type": "Adam", "lr": 1e-2}}
    model = build(options(tmp_path, scheduler={"type": "LinearDecayLR", "decay_from": 0.5}, **restorer))
    rates = []
    for current_iter in range(1, 9):
        step(model, current_iter)
        rates.append(model.get_current_learning_rate()[0])
    assert rates == pytest.approx(expected)


def test_moving_average_follows_the_documented_rule(tmp_path):
    model = build(options(tmp_path))
    start = copy.deepcopy(model.net_g.head.weight.detach())
    step(model, 1)
    decay = min(0.9, 2 / 11)
    expected = decay * start + (1 - decay) * model.net_g.head.weight.detach()
    torch.testing.assert_close(model.averages["g"].head.weight, expected)


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"collapse_iter": 3}, 3),
        (RESTORER, 2),  # before stage 2
        ({"restorer_opt": {"start_iter": 0, "rounds": [1]}, "optim_s": ADAM, "collapse_iter": 2}, 2),  # own rain
    ],
)
def test_an_empty_rain_layer_stops_the_training(tmp_path, changes, last):
    model = build(options(tmp_path, min_mean_rain=0.9, **changes))
    for current_iter in range(1, last):
        step(model, current_iter)
    with pytest.raises(TrainingStoppedError, match="the rain layer is empty"):
        step(model, last)


def test_a_resumed_run_with_faint_rain_is_not_taken_for_a_collapse(tmp_path):
    model = build(options(tmp_path, min_mean_rain=0.005, collapse_iter=3))
    assert 0.005 < step(model, 100)["mean_rain"] < 0.02  # the first step of this process, beyond collapse_iter


def test_restorer_learns_to_keep_structure_that_is_drawn_into_clean_images(tmp_path):
    model = build(options(tmp_path, restorer_opt={"start_iter": 0, "rain_free": 1.0, "structure": 1.0}, optim_s=ADAM))
    seen, targets = [], []
    model.net_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.iteration.cri_pix.register_forward_pre_hook(lambda _, inputs: targets.append(inputs[1]))
    clean = torch.full((4, 3, 32, 32), 0.5)
    model.feed_data({"lq": torch.rand(4, 3, 32, 32), "gt": clean, "lq_path": list("abcd")})
    model.optimize_parameters(1)
    assert torch.equal(seen[0], targets[0])
    assert (seen[0] != clean).flatten(1).any(1).sum() >= 3


@pytest.mark.parametrize("rendered", [0.0, 1.0])
def test_restorer_learns_on_rendered_rain_where_asked_for(tmp_path, rendered):
    restorer = {"start_iter": 0, "rain_free": 0.0, "rendered": rendered}
    model = build(options(tmp_path, restorer_opt=restorer, optim_s=ADAM))
    seen = []
    model.net_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    clean = 0.1 * torch.rand(4, 3, 32, 32)
    model.feed_data({"lq": torch.rand(4, 3, 32, 32), "gt": clean, "lq_path": list("abcd")})
    model.optimize_parameters(1)
    added = seen[0] - clean
    # An untrained generator finds faint rain, which is below the threshold: what is laid on is rendered, and grey.
    assert (added.amax(dim=(1, 2, 3)) > 0.1).float().mean() >= 0.75 * rendered
    assert rendered or added.abs().max() < 1e-6
    torch.testing.assert_close(added[:, :1].expand(-1, 3, -1, -1).clamp(max=0.85), added.clamp(max=0.85))


def test_after_a_round_the_rain_is_what_the_restorer_of_that_moment_takes_out(tmp_path):
    exactly = {"gain": [1, 1], "resize": [1, 1], "flip": False, "threshold": 0, "rain_free": 0}
    restorer = {"start_iter": 1, "rounds": [1, 3], "round_gain": [0.5, 0.5], **exactly}
    model = build(options(tmp_path, restorer_opt=restorer, optim_s=ADAM))
    seen, kept = [], []
    model.net_s.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    data = {"lq": torch.rand(4, 3, 32, 32), "gt": 0.1 * torch.rand(4, 3, 32, 32), "lq_path": list("abcd")}
    for current_iter in range(1, 7):
        kept.append(copy.deepcopy(model.averages["s"]))
        model.feed_data(data)
        model.optimize_parameters(current_iter)
    with torch.no_grad():
        first = data["lq"] - model.averages["g"](data["lq"])
        # Iterations 2 to 6; the rounds end after 2 and after 4, so 3 and 4 take what the restorer before 3 took out.
        own = [0.5 * (data["lq"] - kept[index](data["lq"])).mean(1, keepdim=True) for index in (2, 2, 4, 4)]
    for pseudo, rain in zip(seen, (first, *own), strict=True):
        torch.testing.assert_close(pseudo, (data["gt"] + rain.clamp_min(0)).clamp(0, 1))


@pytest.mark.parametrize("decomposition", ["residual", "two_branch"])
def test_resuming_continues_as_if_nothing_happened(tmp_path, decomposition):
    restorer = {"start_iter": 2, "rounds": [1]}  # the round ends after iteration 3
    opt = options(tmp_path, decomposition, **{**RESTORER, "restorer_opt": restorer})
    through = build(opt)
    for current_iter in range(1, 7):
        step(through, current_iter)
    for stop in (1, 4):  # in either stage
        first = build(opt)
        for current_iter in range(1, stop + 1):
            step(first, current_iter)
        first.save(0, stop)
        resumed_opt = copy.deepcopy(opt)
        for label in first.nets:
            resumed_opt["path"][f"pretrain_network_{label}"] = str(tmp_path / f"net_{label}_{stop}.pth")
        second = build(resumed_opt)
        second.resume_training(torch.load(tmp_path / f"{stop}.state", weights_only=True))
        for current_iter in range(stop + 1, 7):
            step(second, current_iter)
        for label, net in through.nets.items():
            for (name, a), b in zip(net.named_parameters(), second.nets[label].parameters(), strict=True):
                torch.testing.assert_close(a, b, msg=lambda m, n=f"{label}.{name}": f"{n}: {m}")
        for label, net in through.averages.items():
            for a, b in zip(net.parameters(), second.averages[label].parameters(), strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("decomposition", "train", "change", "match"),
    [
        ("residual", {}, {"network_g": {"type": "ResidualUNet"}}, "train.location_opt needs feature taps, which netw"),
        ("residual", {}, {"is_train": False}, "is missing: give the checkpoint to test"),
        ("residual", {"consistency_opt": {"type": "MSELoss"}}, {}, "holds by construction"),
        ("residual", {"layer_opt": {"type": "AsymmetricNLCLLoss", "sampling": {"taps": [0, 99]}}}, {},
         r"train.layer_opt.sampling.taps: taps of PatchDiscriminator must be in \[0, 8\]"),
        ("residual", {"restorer_opt": {"start_iter": 0, "rounds": [2, 1]}, "optim_s": ADAM}, {}, "rounds must be"),
        ("two_branch", {"consistency_opt": None, "layer_opt": None}, {}, "two_branch nothing else trains net_r"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(tmp_path, decomposition, train, change, match):
    opt = {**options(tmp_path, decomposition, **train), **change}
    with pytest.raises(ValueError, match=match):
        build({key: value for key, value in opt.items() if value is not None})


def test_initial_weights_depend_on_the_seed_and_the_network_alone(tmp_path):
    def weights(seed, **changes):
        torch.manual_seed(len(changes))
        return build({**options(tmp_path, **changes, **RESTORER), "manual_seed": seed}).net_s.state_dict()

    first, other_losses, other_seed = weights(1), weights(1, layer_opt=None, location_opt=None), weights(2)
    assert all(torch.equal(first[key], other_losses[key]) for key in first)
    assert not torch.equal(first["head.weight"], other_seed["head.weight"])
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with own_random_stream(1, "g"):
        torch.rand(7)
    assert torch.equal(torch.rand(3), expected)
