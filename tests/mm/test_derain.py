"""The model in MMEngine: precision, stages, inference."""

import copy
import functools

import pytest
import torch
from mm_helpers import batch, build, model_config, optimizers
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

from nlcl_plugin.errors import InputError
from nlcl_plugin.mm import UnitRangePreprocessor


def test_networks_run_in_half_precision_and_losses_in_full():
    model = build()
    inside, compared = [], []
    model.generator.blocks[0].conv1.register_forward_hook(lambda _, __, out: inside.append(out.dtype))
    model.restorer.register_forward_hook(lambda _, args, __: inside.append(torch.get_autocast_dtype("cpu")))
    model.iteration.losses.cri_gan.register_forward_pre_hook(lambda _, args: compared.append(args[0].dtype))
    wrappers = optimizers(model, type="Bf16OptimWrapper")
    log = model.train_step(batch(), wrappers)
    assert set(inside) == {torch.bfloat16}
    assert set(compared) == {torch.float32}
    full = build()
    assert log == pytest.approx(full.train_step(batch(), optimizers(full)), rel=0.05, abs=1e-3)
    model.train_step(batch(), wrappers)  # stage 2
    assert set(inside) == {torch.bfloat16}


def weights(net):
    return torch.cat([parameter.detach().cpu().flatten() for parameter in net.parameters()])


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def amp_device(request, monkeypatch):
    """A device for MMEngine's AmpOptimWrapper in float16, which refuses the CPU for no need of its own."""
    from mmengine.optim.optimizer import amp_optimizer_wrapper
    from mmengine.runner import amp

    if request.param == "cpu":
        monkeypatch.setattr(amp_optimizer_wrapper, "is_cuda_available", lambda: True)
        monkeypatch.setattr(amp_optimizer_wrapper, "GradScaler", functools.partial(torch.amp.GradScaler, "cpu"))
        monkeypatch.setattr(amp, "autocast", lambda **_: torch.autocast("cpu", dtype=torch.float16))
    return request.param


def test_stock_mixed_precision_has_one_scale_for_all_networks(amp_device):
    model = build().to(amp_device)
    wrappers = optimizers(model, type="AmpOptimWrapper", loss_scale={"init_scale": 2.0**126}, clip_grad={"max_norm": 1})
    before = copy.deepcopy(model.generator.state_dict())
    model.train_step(batch(), wrappers)
    assert {wrapper.loss_scaler.get_scale() for wrapper in wrappers.values()} == {2.0**125}  # three steps, halved once
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())


def test_each_stage_trains_its_networks_alone_and_derains_also_after_loading():
    model = build()
    wrappers = optimizers(model)
    before = copy.deepcopy(model.state_dict())
    model.train_step(batch(), wrappers)
    between = copy.deepcopy(model.state_dict())
    lq = batch(2)["lq"]
    assert torch.equal(model(lq), model.average_generator(lq))
    model.train_step(batch(1), wrappers)
    after = model.state_dict()
    for name, parameter in model.named_parameters():
        changed = [not torch.equal(a[name], b[name]) for a, b in ((before, between), (between, after))]
        second = name.startswith(("restorer.", "average_restorer."))
        assert changed == [not second, second], name
        assert parameter.requires_grad == (not name.startswith("average_"))
    loaded = build()
    loaded.load_state_dict(after)
    assert torch.equal(loaded(lq), model.average_restorer(lq))


def test_a_restorer_alone_needs_no_other_network_and_trains_as_in_basicsr(tmp_path):
    import model_helpers

    restorer = {"start_iter": 0, "rounds": [1]}
    config = {"type": "NLCLDerain", "restorer": model_config()["restorer"], "seed": 3,
              "train_cfg": {"ema_decay": 0.9, "restorer_opt": restorer, "min_mean_rain": 0}}  # fmt: skip
    model = MODELS.build(config)
    assert torch.equal(model(batch()["lq"]), model.average_restorer(batch()["lq"]))
    wrappers = optimizers(model)
    opt = model_helpers.options(tmp_path)
    opt["manual_seed"] = 3
    opt["train"] = {**config["train_cfg"], "total_iter": 8, "optim_s": {"type": "Adam", "lr": 1e-3},
                    "scheduler": {"type": "LinearDecayLR"}}  # fmt: skip
    other = model_helpers.build(opt)
    other.net_s.load_state_dict(model.restorer.state_dict())
    other.averages["s"].load_state_dict(model.average_restorer.state_dict())
    for current_iter in (1, 2):
        model.train_step(batch(current_iter), wrappers)
        other.feed_data(batch(current_iter))
        other.optimize_parameters(current_iter)
    trained = other.averages["s"].state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.average_restorer.state_dict().items())
    assert not any(name.startswith("generator") for name in model.state_dict())
    taken = model.weights_from({"params": model.restorer.state_dict()}, tmp_path)  # of a network_g, or without a label
    assert {name.split(".")[0] for name in taken} == {"restorer", "average_restorer"}


def test_predictions_are_a_dict_an_image_and_layers_sum_to_the_rainy_image():
    samples = build().val_step({**batch(), "gt_path": list("abcd")})
    assert [sample["lq_path"] for sample in samples] == [f"rainy/{i}.png" for i in range(4)]
    for sample in samples:
        assert set(sample) == {"lq", "gt", "result", "rain", "lq_path", "gt_path"}
        torch.testing.assert_close(sample["result"] + sample["rain"], sample["lq"])
        assert not sample["result"].requires_grad


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"lq": torch.rand(1, 3, 8, 8)}, r"the dataset gives lq, but NLCLDerain needs lq \(rainy images\) and gt"),
        ({"lq": [torch.rand(3, 8, 8), torch.rand(3, 8, 9)], "gt": torch.rand(2, 3, 8, 8)}, "lq: expected .* one size"),
    ],
)
def test_batches_without_images_are_refused_and_8_bits_brought_to_the_unit_range(data, message):
    with pytest.raises(InputError, match=message):
        UnitRangePreprocessor()(data, training=True)
    images = [torch.randint(256, (3, 8, 8), dtype=torch.uint8) for _ in range(2)]
    torch.testing.assert_close(UnitRangePreprocessor()({"lq": images})["lq"], torch.stack(images) / 255)


class Windows(torch.nn.Module):
    """A restorer that takes multiples of its window alone, and enlarges."""

    def __init__(self, window_size, upscale=1):
        super().__init__()
        self.window_size, self.upscale = window_size, upscale
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        if x.shape[-1] % self.window_size or x.shape[-2] % self.window_size:
            raise ValueError(f"not a multiple of {self.window_size}")
        return self.weight * torch.nn.functional.interpolate(x, scale_factor=self.upscale)


@pytest.fixture
def windows():
    MODELS.register_module(module=Windows)
    yield lambda **changes: MODELS.build({**model_config(), "restorer": {"type": "Windows", **changes}})
    del MODELS.module_dict["Windows"]


def test_a_restorer_of_windows_derains_images_of_any_size(windows):
    model = windows(window_size=4)
    wrappers = optimizers(model)
    for seed in (0, 1):
        model.train_step(batch(seed), wrappers)
    lq = torch.rand(1, 3, 13, 18)
    torch.testing.assert_close(model(lq), lq * float(model.average_restorer.weight))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": 5}, "model.restorer: not a multiple of 5"),
        ({"window_size": 1, "upscale": 2}, r"model.restorer: makes \(4, 3, 64, 64\) .* must keep their shape"),
    ],
)
def test_a_restorer_that_does_not_fit_is_told_in_the_first_iteration(windows, changes, message):
    model = windows(**changes)
    with pytest.raises(InputError, match=message):
        model.train_step(batch(), optimizers(model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_cfg": {"gan_optt": {}}}, r"model\.train_cfg\.gan_optt: unknown option"),
        ({"train_cfg": {}}, "no loss of stage 1 is given"),
        ({"discriminator": None}, r"model\.discriminator is missing"),
        ({"decomposition": "three"}, "decomposition must be one of"),
    ],
)
def test_a_wrong_model_config_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        MODELS.build({**model_config(), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accumulative_counts": 2}, "accumulative_counts: not supported"),
        ({"paramwise_cfg": {"custom_keys": {}, "bias_lr_mult": 2}}, "paramwise_cfg: not supported"),
        ({"heads": {"type": "Adam", "rate": 1}}, "optim_wrapper, heads: .*rate"),
    ],
)
def test_a_wrong_optimizer_config_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        optimizers(build(), **change)
    with pytest.raises(InputError, match="NLCLOptimWrapperConstructor"):
        build().train_step(batch(), OptimWrapper(torch.optim.SGD([torch.zeros(1)], lr=0.1)))
