"""The losses of `train.nlcl_opt` in stock models, and the stock models untouched without them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from addon_helpers import (
    DISCRIMINATOR,
    ENCODER,
    GENERATOR,
    LOCATION,
    SAMPLING,
    SWINIR,
    batch,
    build,
    options,
    states,
    step,
    stock,
)
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY

from nlcl_plugin.errors import InputError
from nlcl_plugin.models.nlcl_mixin import NLCLMixin
from nlcl_plugin.ops import nonlocal_neighbours
from nlcl_plugin.rain.batch_random import BatchRandom


def trained(opt, steps=2):
    """Weights after a few steps, the last log, and what the global generator returns next."""
    model = build(opt)
    logs = [step(model, current_iter + 1) for current_iter in range(steps)]
    return states(model), dict(logs[-1]), torch.rand(4)


def assert_same(found, expected):
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


# the stock model ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "features"),
    [("SRModel", GENERATOR), ("SwinIRModel", ENCODER), ("SRGANModel", DISCRIMINATOR), ("ESRGANModel", GENERATOR)],
)
def test_with_weight_zero_or_without_the_block_the_training_is_that_of_the_stock_model(tmp_path, model, features):
    opt = options(tmp_path, model, features, loss_weight=0, location_opt=LOCATION)
    expected, its_log, its_drawn = trained(stock(opt))
    found, log, drawn = trained(opt)
    assert_same(found, expected)
    assert log == its_log
    assert torch.equal(drawn, its_drawn)
    del opt["train"]["nlcl_opt"]
    without = trained(opt)[0]
    assert without.keys() == expected.keys()
    assert_same(without, expected)


def test_a_weight_draws_nothing_from_the_global_generator_and_changes_the_generator(tmp_path):
    opt = options(tmp_path, "SwinIRModel")  # which itself draws: it drops paths
    found, _, drawn = trained(opt)
    expected, _, its_drawn = trained(stock(opt))
    assert torch.equal(drawn, its_drawn)
    assert not torch.equal(found["net_g.conv_first.weight"], expected["net_g.conv_first.weight"])


def test_a_discriminator_that_gives_the_features_is_trained_by_its_own_loss_alone(tmp_path):
    opt = options(tmp_path, "SRGANModel", DISCRIMINATOR)
    found, expected = (trained(o, steps=1)[0] for o in (opt, stock(opt)))
    # The first step of net_d uses the output before net_g's.
    assert_same(found, {name: value for name, value in expected.items() if name.startswith("net_d.")})
    assert not torch.equal(found["net_g.conv_last.weight"], expected["net_g.conv_last.weight"])


# gradients ------------------------------------------------------------------------------------------------------------
def slow_layer_contrast(image, rain, temperature=0.07):
    """Mean over anchors of -mean over positives of log(exp(a·p/t) / sum over all others of exp(a·o/t))."""
    layers = [*((z, 0) for z in image), *((z, 1) for z in rain)]
    total = 0
    for i, (anchor, layer) in enumerate(layers):
        others = [(z, kind) for j, (z, kind) in enumerate(layers) if j != i]
        denominator = sum(((anchor @ z) / temperature).exp() for z, _ in others)
        positives = [z for z, kind in others if kind == layer]
        total -= sum(((anchor @ z / temperature).exp() / denominator).log() for z in positives) / len(positives)
    return total / len(layers)


def slow_loss(model, output, lq, current_iter):
    """Layer contrast of an EDSR's output by its own first two features, item by item and patch by patch."""
    net = copy.deepcopy(model.net_g).requires_grad_(False)
    full = F.interpolate(lq, size=output.shape[-2:], mode="bicubic") if lq.shape != output.shape else lq
    random = BatchRandom(3, current_iter, range(len(lq)), len(lq))
    size = tuple(output.shape[-2:])
    found = []
    for layer, k in ((output, 4), (full - output, 6)):
        queries = random.centres(SAMPLING["num_queries"], size, SAMPLING["patch_size"], torch.device("cpu"))
        centres, _ = nonlocal_neighbours(layer.detach(), queries, patch_size=4, search_size=10, k=k)
        first = net.conv_first((layer - net.mean.to(layer)) * net.img_range)
        taps = [first, net.conv_after_body(net.body(first))]
        found.append([[[[tap[b, :, r, c] for r, c in query] for query in centres[b]] for b in range(len(lq))]
                      for tap in taps])  # fmt: skip
    values = []
    for head, image, rain in zip(model.net_p.heads, *found, strict=True):
        for b in range(len(lq)):
            for query in range(SAMPLING["num_queries"]):
                vectors = [F.normalize(head(torch.stack(side[b][query])), dim=-1) for side in (image, rain)]
                values.append(slow_layer_contrast(*vectors))
    return sum(values) / len(values)


@pytest.mark.parametrize("scale", [1, 2])
def test_gradient_is_the_stock_one_and_the_weighted_one_of_a_slow_reference(tmp_path, scale):
    torch.set_default_dtype(torch.float64)
    try:
        model = build(options(tmp_path, scale=scale, loss_weight=0.3, ramp_iter=10))
        data = {key: value.double() for key, value in batch(scale=scale).items()}
        reference = copy.deepcopy(model)
        model.feed_data(data)
        model.optimize_parameters(5)
        output = reference.net_g(data["lq"])
        extra = slow_loss(reference, output, data["lq"], 5)
        (F.l1_loss(output, data["gt"]) + 0.5 * 0.3 * extra).backward()
        for net in ("net_g", "net_p"):
            own, expected = (dict(getattr(m, net).named_parameters()) for m in (model, reference))
            for name, value in expected.items():
                torch.testing.assert_close(own[name].grad, value.grad, rtol=1e-9, atol=1e-12, msg=f"{net}.{name}")
        log = model.get_current_log()
        assert log["l_nlcl"] == pytest.approx(extra.item())
        floor = (4 * math.log(3) + 6 * math.log(5)) / 10
        assert log["l_nlcl_above_floor"] == pytest.approx(extra.item() - floor)
        assert log["l_pix"] == pytest.approx(F.l1_loss(output, data["gt"]).item())
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("features", "scale"), [(GENERATOR, 2), (DISCRIMINATOR, 1), (ENCODER, 2)])
def test_heads_and_encoder_learn_from_every_source_of_features(tmp_path, features, scale):
    model = build(options(tmp_path, "SRGANModel", features, scale=scale, location_opt=LOCATION))
    before = states(model)
    for current_iter in (1, 2, 3):
        log = step(model, current_iter, scale=scale)
    after = states(model)
    learning = [name for name in before if name.startswith(("net_p.", "net_e.", "net_g."))]
    assert any(name.startswith("net_e.") for name in learning) == (features is ENCODER)
    for name in learning:
        assert not torch.equal(before[name], after[name]), name
    assert {"l_nlcl", "l_nlcl_above_floor", "l_nlcl_location", "l_g_pix", "l_d_real"} <= set(log)
    assert all(math.isfinite(value) for value in log.values())


def test_each_step_compares_places_of_its_own_which_a_resumed_run_draws_again(tmp_path):
    model = build(options(tmp_path))
    output, inputs = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    values = [model.nlcl_gradient(output, inputs, i)[1]["l_nlcl"].item() for i in (1, 2, 1)]
    assert values[0] == values[2] != values[1]


# a model of one's own -------------------------------------------------------------------------------------------------
class TwiceModel(SRModel):
    """Scales its loss, as with half precision, and runs net_g and the backward pass through its output twice."""

    scale = 1024.0

    def optimize_parameters(self, current_iter):
        self.scaler = torch.amp.GradScaler("cpu", init_scale=self.scale)
        self.optimizer_g.zero_grad()
        with torch.no_grad():
            self.net_g(self.gt)
        self.output = self.net_g(self.lq)
        loss = self.cri_pix(self.output, self.gt)
        self.scaler.scale(loss / 2).backward(retain_graph=True)
        self.scaler.scale(loss / 2).backward()
        self.net_g(self.gt)
        self.scaler.step(self.optimizer_g)
        self.scaler.update()
        self.log_dict = self.reduce_loss_dict({"l_mine": loss})


@pytest.fixture
def with_mixin():
    """Registers a class derived from a model with `NLCLMixin`; returns its name."""

    def register(model):
        MODEL_REGISTRY.register(type("NLCLOwnModel", (NLCLMixin, model), {"__module__": __name__}))
        return "NLCLOwnModel"

    yield register
    del MODEL_REGISTRY._obj_map["NLCLOwnModel"]


def test_two_lines_give_the_losses_to_a_model_of_ones_own(tmp_path, with_mixin):
    opt = options(tmp_path)
    plain = build(opt)
    step(plain, 1)
    opt["model_type"] = with_mixin(TwiceModel)
    model = build(opt)
    assert set(step(model, 1)) == {"l_mine", "l_nlcl", "l_nlcl_above_floor"}
    # Its scaler has taken the factor out again: the gradients are those of the plain model, added once.
    for net in ("net_g", "net_p"):
        own, expected = (dict(getattr(m, net).named_parameters()) for m in (model, plain))
        for name, value in expected.items():
            torch.testing.assert_close(own[name].grad, value.grad, rtol=1e-4, atol=1e-7, msg=f"{net}.{name}")


class HalfModel(SRModel):
    """Runs net_g in half precision with a scaler of its own, gives it its images by name, and weighs its loss 0."""

    half = True

    def optimize_parameters(self, current_iter):
        self.scaler = torch.amp.GradScaler("cpu", enabled=self.half)
        self.optimizer_g.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16, enabled=self.half):
            self.output = self.net_g(x=self.lq)
        self.scaler.scale(0 * self.output.sum()).backward()
        self.scaler.unscale_(self.optimizer_g)
        self.log_dict = {}


def test_small_gradients_are_not_lost_in_a_model_of_half_precision(tmp_path, with_mixin):
    opt = options(tmp_path, features=ENCODER, loss_weight=1e-6)
    opt["model_type"] = with_mixin(HalfModel)
    opt["network_g"] = {"type": "ResidualUNet", "num_feat": 4, "num_block": 1}
    found = []
    for HalfModel.half in (False, True):
        model = build(opt)
        step(model, 1)
        nets = (model.net_g, model.net_p, model.net_e)
        found.append([torch.cat([p.grad.flatten() for p in net.parameters()]) for net in nets])
    for full, half in zip(*found, strict=True):
        assert torch.cosine_similarity(full, half, dim=0) > 0.98
        assert float(half.norm()) == pytest.approx(float(full.norm()), rel=0.05)


# saving and resuming --------------------------------------------------------------------------------------------------
def resumed(opt, tmp_path, iteration):
    for key in ("g", "d", "p", "e"):
        opt["path"][f"pretrain_network_{key}"] = str(tmp_path / f"net_{key}_{iteration}.pth")
    state = torch.load(tmp_path / f"{iteration}.state", weights_only=True)
    opt["path"]["resume_state"] = str(tmp_path / f"{iteration}.state")
    model = build(opt)
    model.resume_training(state)
    return model


def test_a_resumed_run_ends_bit_for_bit_as_one_that_was_not_interrupted(tmp_path):
    opt = options(tmp_path, "SRGANModel", ENCODER, location_opt=LOCATION)
    opt["train"]["ema_decay"] = 0  # stock models save the average, and start it from there
    whole = build(opt)
    for current_iter in (1, 2, 3, 4):
        step(whole, current_iter)
        if current_iter == 2:
            whole.save(0, 2)
    other = resumed(opt, tmp_path, 2)
    for current_iter in (3, 4):
        step(other, current_iter)
    expected, found = states(whole), states(other)
    assert {"net_p.heads.0.0.weight", "net_e.levels.0.weight"} <= set(expected)
    assert_same(found, expected)


def test_a_checkpoint_of_the_stock_model_goes_on_with_fresh_heads(tmp_path):
    opt = options(tmp_path)
    before = build(stock(opt))
    for current_iter in (1, 2):
        step(before, current_iter)
    before.save(0, 2)
    model = resumed(opt, tmp_path, 2)
    assert len(model.optimizers) == len(model.schedulers) == 2
    assert model.optimizers[0].state_dict()["state"].keys() == before.optimizers[0].state_dict()["state"].keys()
    assert model.get_current_learning_rate() == before.get_current_learning_rate()
    assert "l_nlcl" in step(model, 3)


# one channel ---------------------------------------------------------------------------------------------------------
GREY_ENCODER = {"type": "FeatureEncoder", "num_in_ch": 1, "num_feat": 4, "num_level": 2}
MSR = {"type": "MSRResNet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1, "upscale": 2}


@pytest.mark.parametrize(
    ("model", "network", "features", "scale"),
    [("SwinIRModel", {**SWINIR, "in_chans": 1}, GENERATOR, 1), ("SRModel", MSR, ENCODER, 2)],
)
def test_one_channel_models_train_with_the_losses(tmp_path, model, network, features, scale):
    opt = options(tmp_path, model, features, scale=scale, location_opt=LOCATION)
    built = build({**opt, "network_g": network, "network_e": GREY_ENCODER})
    before = states(built)
    built.feed_data({key: value[:, :1] for key, value in batch(scale=scale).items()})
    built.optimize_parameters(1)
    assert {"l_nlcl", "l_nlcl_location"} <= set(built.get_current_log())
    assert all(not torch.equal(value, before[name]) for name, value in states(built).items() if name[:6] == "net_p.")


# faults ---------------------------------------------------------------------------------------------------------------
VSR = {"network_g": {"type": "BasicVSR", "num_feat": 4, "num_block": 1}}
FAULTS = [  # model, features, changes of the block, changes of the options, message
    ("SwinIRModel", {**GENERATOR, "modules": ["layers.0"]}, {}, {}, r"'layers.0' returns \(1, 256, 8\)"),
    ("SRModel", GENERATOR, {"optim_p": {"type": "Adma", "lr": 0.1}}, {}, "optim_p.type: torch.optim has no 'Adma'"),
    ("SRModel", GENERATOR, {}, {"network_p": None}, "network_p is missing: train.nlcl_opt needs"),
    ("SRModel", GENERATOR, {}, VSR, r"network_g \(BasicVSR\) takes no images \(B, 3 or 1, H, W\): .*; use a network"),
    ("SRModel", ENCODER, {}, {"network_g": MSR, "scale": 2}, "crops of 16 pixels of one channel: "),  # encoder of 3
]  # fmt: skip


@pytest.mark.parametrize(("model", "features", "block", "changes", "message"), FAULTS)
def test_options_that_do_not_fit_are_refused_when_the_model_is_built(
    tmp_path, model, features, block, changes, message
):
    opt = {**options(tmp_path, model, features, **block), **changes}
    with pytest.raises(InputError, match=message) as raised:
        build({key: value for key, value in opt.items() if value is not None})
    assert "\n" not in str(raised.value)


def test_a_network_that_puts_out_no_image_is_refused(tmp_path):
    opt = options(tmp_path, features=ENCODER)
    opt["network_g"] = opt["network_d"]
    with pytest.raises(InputError, match=r"received \(2, 3, 16, 16\) and \(2, 1, 16, 16\)"):
        step(build(opt), 1)
