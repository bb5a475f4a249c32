"""Precision, clipping, parts of a batch, schedules by name, and what is done about NaN."""

import copy

import pytest
import torch
from model_helpers import batch, build, options, step

from nlcl_plugin.errors import TrainingStoppedError


def weights(model):
    return {
        f"{label}.{name}": value.detach().clone()
        for label, net in model.nets.items()
        for name, value in net.named_parameters()
    }


def same(before, after):
    return all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_networks_run_in_half_precision_and_losses_in_full(tmp_path, amp):
    model = build(options(tmp_path, amp=amp))
    inside, compared = [], []
    model.net_g.blocks[0].conv1.register_forward_hook(lambda _, __, out: inside.append(out.dtype))
    for name in ("cri_layer", "cri_location", "cri_gan", "cri_relay"):
        loss = getattr(model.losses, name)
        loss.register_forward_pre_hook(lambda _, args: compared.extend(_dtypes(args)))
    reduced = step(model, 1)
    assert set(inside) == {torch.bfloat16 if amp == "bf16" else torch.float16}
    assert set(compared) == {torch.float32}
    assert {p.dtype for net in model.nets.values() for p in net.parameters()} == {torch.float32}
    full = step(build(options(tmp_path)), 1)
    assert reduced == pytest.approx(full, rel=0.05, abs=1e-3)


def _dtypes(value):
    if isinstance(value, torch.Tensor):
        return [value.dtype]
    return [dtype for part in value for dtype in _dtypes(part)] if isinstance(value, list | tuple) else []


def test_a_scaled_step_that_overflows_is_left_out_and_the_scale_falls_and_is_resumed(tmp_path):
    opt = options(tmp_path, amp="fp16")
    model = build(opt)
    step(model, 1)
    state = model.stepper.scaler.state_dict()
    model.stepper.scaler.load_state_dict({**state, "scale": 2.0**60})
    before = weights(model)
    step(model, 2)
    assert same(before, weights(model))
    assert model.stepper.scaler.get_scale() == 2.0**59
    model.save(0, 2)
    second = build(opt)
    second.resume_training(torch.load(tmp_path / "2.state", weights_only=True))
    assert second.stepper.scaler.get_scale() == 2.0**59
    model.stepper.scaler.load_state_dict(state)
    step(model, 3)
    assert not same(before, weights(model))


def test_memory_layout_changes_no_result(tmp_path):
    model = build(options(tmp_path, channels_last=True))
    assert step(model, 1) == pytest.approx(step(build(options(tmp_path)), 1), rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_compiled_networks_give_the_same_losses_and_checkpoints(tmp_path):
    plain, compiled = build(options(tmp_path)), build(options(tmp_path, compile=True))
    for current_iter in (1, 2):
        assert step(compiled, current_iter) == pytest.approx(step(plain, current_iter), rel=1e-3, abs=1e-5)
    compiled.save(0, 2)
    again = build(options(tmp_path))
    again.nets["g"].load_state_dict(torch.load(tmp_path / "net_g_2.pth", weights_only=True)["params"])


def test_checkpointed_generator_has_the_same_gradients(tmp_path):
    def gradients(checkpointing):
        opt = options(tmp_path)
        opt["network_g"]["checkpointing"] = checkpointing
        model = build(opt)
        step(model, 1)
        return [p.grad for p in model.net_g.parameters()]

    for a, b in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_gradients_are_clipped_by_norm_and_the_norm_is_logged(tmp_path):
    log = step(build(options(tmp_path)), 1)
    assert not any(name.startswith("grad_norm") for name in log)
    model = build(options(tmp_path, grad_clip=1e-3))
    log = step(model, 1)
    for name in ("g", "d", "p"):
        gradients = [p.grad for group in model.optimizer[name].param_groups for p in group["params"]]
        norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
        assert norm.item() == pytest.approx(1e-3, rel=1e-2)
        assert log[f"grad_norm_{name}"] > 1e-3


NAN = {**batch(), "lq": torch.full((2, 3, 32, 32), float("nan"))}


@pytest.mark.parametrize("part", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_training_before_the_step(tmp_path, part):
    model = build(options(tmp_path))
    model.feed_data(NAN if part == "loss" else batch())
    if part == "gradient":
        model.net_p.heads[0][0].weight.register_hook(lambda gradient: gradient * float("nan"))
    before = weights(model)
    found = "l_g_gan" if part == "loss" else "gradient of net_p"
    with pytest.raises(TrainingStoppedError, match=rf"{found} is nan at iteration 1 \(images: rainy/0.png"):
        model.optimize_parameters(1)
    assert same(before, weights(model))


@pytest.mark.parametrize("amp", [None, "fp16"])
def test_steps_that_are_not_finite_are_left_out_and_counted_if_asked_for(tmp_path, amp):
    model = build(options(tmp_path, on_nonfinite="skip", amp=amp))
    step(model, 1)
    before, averages = weights(model), copy.deepcopy(model.averages["g"].state_dict())
    model.feed_data(NAN)
    model.optimize_parameters(2)
    assert same(before, weights(model))
    assert same(averages, model.averages["g"].state_dict())
    assert model.get_current_log() == {"skipped_steps": 1}  # no losses of an earlier step
    assert step(model, 3)["skipped_steps"] == 1
    assert not same(before, weights(model))


def test_steps_are_not_left_out_for_ever_also_over_a_resume(tmp_path):
    opt = options(tmp_path, on_nonfinite="skip")
    first, second = build(opt), build(opt)
    first.feed_data(NAN)
    for current_iter in range(1, 20):
        first.optimize_parameters(current_iter)
    first.save(0, 19)
    second.resume_training(torch.load(tmp_path / "19.state", weights_only=True))
    second.feed_data(NAN)
    with pytest.raises(TrainingStoppedError, match="20 steps in a row were left out, at last: l_g_gan is nan"):
        second.optimize_parameters(20)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        ({"type": "CosineAnnealingLR", "T_max": 4}, [1e-3, 8.5355339e-4, 5e-4, 1.4644661e-4]),
        ({"type": "ExponentialLR", "gamma": 0.5}, [1e-3, 5e-4, 2.5e-4, 1.25e-4]),
        ({"type": "MultiStepLR", "milestones": [2], "gamma": 0.1}, [1e-3, 1e-3, 1e-4, 1e-4]),
    ],
)
def test_schedules_and_optimizers_of_torch_and_basicsr_work_by_name(tmp_path, scheduler, expected):
    model = build(options(tmp_path, scheduler=scheduler, optim_g={"type": "RMSprop", "lr": 1e-3}))
    assert isinstance(model.optimizer["g"], torch.optim.RMSprop)
    rates = []
    for current_iter in range(1, 5):
        step(model, current_iter)
        rates.append(model.get_current_learning_rate()[0])
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    "scheduler", [{"type": "CosineAnnealingLR", "T_max": 8}, {"type": "MultiStepLR", "milestones": [2, 5]}]
)
def test_warm_up_is_a_factor_on_the_schedule_and_leaves_no_trace(tmp_path, scheduler):
    rates = {}
    for warmup_iter in (-1, 4):
        model = build(options(tmp_path, scheduler=scheduler))
        rates[warmup_iter] = []
        for current_iter in range(1, 8):
            model.update_learning_rate(current_iter, warmup_iter)
            model.optimizer["g"].step()
            rates[warmup_iter] += model.get_current_learning_rate()
    factors = [0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert rates[4] == pytest.approx([rate * factor for rate, factor in zip(rates[-1], factors, strict=True)])
