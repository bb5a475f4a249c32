"""The losses of `train.nlcl_opt` in stock models, and the stock models untouched without them."""

import copy
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from addon_gradients_job import CASES, gradients
from addon_helpers import (
    ADAM,
    DISCRIMINATOR,
    ENCODER,
    GENERATOR,
    LAYER,
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

HERE = Path(__file__).parent
MODELS = ("SRModel", "SwinIRModel", "SRGANModel", "ESRGANModel")
SOURCES = {"generator": GENERATOR, "discriminator": DISCRIMINATOR, "encoder": ENCODER}


def trained(opt):
    """Weights after three steps, the last log, and what the global generator gives next."""
    model = build(opt)
    logs = [step(model, current_iter) for current_iter in (1, 2, 3)]
    return states(model), dict(logs[-1]), torch.rand(4)


# the stock model ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("model", "source"),
    [(model, source) for model in MODELS for source in SOURCES if source != "discriminator" or "GAN" in model],
)
def test_with_weight_zero_the_training_is_bit_for_bit_that_of_the_stock_model(tmp_path, model, source):
    opt = options(tmp_path, model, SOURCES[source], loss_weight=0, location_opt=LOCATION)
    found, log, drawn = trained(opt)
    expected, its_log, its_drawn = trained(stock(opt))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert log == its_log
    assert torch.equal(drawn, its_drawn)


@pytest.mark.parametrize("model", MODELS)
def test_without_the_block_the_model_is_the_stock_one(tmp_path, model):
    opt = options(tmp_path, model, nlcl_opt=None)
    built = build(opt)
    assert not hasattr(built, "net_p")
    opt["train"]["nlcl_opt"] = {}
    expected = trained(stock(opt))[0]
    del opt["train"]["nlcl_opt"]
    found = trained(opt)[0]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_weight_draws_nothing_from_the_global_generator_and_changes_the_generator(tmp_path):
    opt = options(tmp_path, "SwinIRModel")  # which itself draws: it drops paths
    found, _, drawn = trained(opt)
    expected, _, its_drawn = trained(stock(opt))
    assert torch.equal(drawn, its_drawn)
    assert not torch.equal(found["net_g.conv_first.weight"], expected["net_g.conv_first.weight"])


def test_a_discriminator_that_gives_the_features_is_trained_by_its_own_loss_alone(tmp_path):
    opt = options(tmp_path, "SRGANModel", DISCRIMINATOR)
    found, expected = (states(trained_once(o)) for o in (opt, stock(opt)))
    for name, value in expected.items():
        if name.startswith("net_d."):  # the first step of net_d sees the output before net_g's
            assert torch.equal(found[name], value), name
    assert not torch.equal(found["net_g.conv_last.weight"], expected["net_g.conv_last.weight"])


def trained_once(opt):
    model = build(opt)
    step(model, 1)
    return model


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


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("scale", [1, 2])
def test_heads_and_encoder_learn_from_every_source_of_features(tmp_path, source, scale):
    model = build(options(tmp_path, "SRGANModel", SOURCES[source], scale=scale, location_opt=LOCATION))
    before = states(model)
    for current_iter in (1, 2, 3):
        log = step(model, current_iter, scale=scale)
    after = states(model)
    learning = [name for name in before if name.startswith(("net_p.", "net_e.", "net_g."))]
    assert any(name.startswith("net_e.") for name in learning) == (source == "encoder")
    for name in learning:
        assert not torch.equal(before[name], after[name]), name
    assert {"l_nlcl", "l_nlcl_above_floor", "l_nlcl_location", "l_g_pix", "l_d_real"} <= set(log)
    assert all(math.isfinite(value) for value in log.values())


def test_a_step_that_leaves_the_generator_out_leaves_the_heads_out(tmp_path):
    opt = options(tmp_path, "ESRGANModel", DISCRIMINATOR)
    opt["train"]["net_d_init_iters"] = 1
    model = build(opt)
    before = states(model)
    assert "l_nlcl" not in step(model, 1)
    held = states(model)
    assert all(torch.equal(held[name], before[name]) for name in before if name[:6] in ("net_g.", "net_p."))
    assert "l_nlcl" in step(model, 2)
    assert not torch.equal(states(model)["net_p.heads.0.0.weight"], held["net_p.heads.0.0.weight"])


def test_each_step_compares_places_of_its_own_which_a_resumed_run_draws_again(tmp_path):
    model = build(options(tmp_path))
    output, inputs = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    values = [model.nlcl_gradient(output, inputs, i)[1]["l_nlcl"].item() for i in (1, 2, 1)]
    assert values[0] == values[2] != values[1]


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    job = subprocess.run(
        [*command, HERE / "addon_gradients_job.py", folder],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert job.returncode == 0, job.stderr[-3000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_gradients_of_two_processes_are_those_of_one(two_processes, tmp_path, name):
    torch.set_default_dtype(torch.float64)
    try:
        expected = gradients(name, tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {parameter[:5] for parameter in expected} >= {"net_g", "net_p"}
    for found in (ranks[name] for ranks in two_processes):
        assert found.keys() == expected.keys()
        for parameter, gradient in expected.items():
            torch.testing.assert_close(found[parameter], gradient, rtol=1e-9, atol=1e-11, msg=parameter)


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
def own_model():
    @MODEL_REGISTRY.register()
    class NLCLTwiceModel(NLCLMixin, TwiceModel): ...

    yield NLCLTwiceModel
    del MODEL_REGISTRY._obj_map["NLCLTwiceModel"]


def test_two_lines_give_the_losses_to_a_model_of_ones_own(tmp_path, own_model):
    opt = options(tmp_path)
    plain = build(opt)
    step(plain, 1)
    opt["model_type"] = own_model.__name__
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


@pytest.fixture
def half_model():
    @MODEL_REGISTRY.register()
    class NLCLHalfModel(NLCLMixin, HalfModel): ...

    yield NLCLHalfModel
    del MODEL_REGISTRY._obj_map["NLCLHalfModel"]


def test_small_gradients_are_not_lost_in_a_model_of_half_precision(tmp_path, half_model):
    opt = options(tmp_path, features=ENCODER, loss_weight=1e-6)
    opt["model_type"] = half_model.__name__
    opt["network_g"] = {"type": "ResidualUNet", "num_feat": 4, "num_block": 1}
    found = []
    for half_model.half in (False, True):
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
    assert all(torch.equal(found[name], value) for name, value in expected.items())


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


def test_heads_have_the_generators_optimizer_or_their_own(tmp_path):
    model = build(options(tmp_path))
    assert isinstance(model.optimizer_p, torch.optim.Adam)
    assert model.optimizer_p.defaults["lr"] == ADAM["lr"]
    model = build(options(tmp_path, optim_p={"type": "SGD", "lr": 0.2}))
    assert isinstance(model.optimizer_p, torch.optim.SGD)
    rates = []
    for current_iter in (1, 2, 3):
        step(model, current_iter)
        rates.append(model.optimizer_p.param_groups[0]["lr"])
    assert rates == [0.2, 0.2, 0.1]  # by train.scheduler


# other images than of three channels ----------------------------------------------------------------------------------
GREY_ENCODER = {"type": "FeatureEncoder", "num_in_ch": 1, "num_feat": 4, "num_level": 2}
MSR = {"type": "MSRResNet", "num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_block": 1, "upscale": 2}


@pytest.mark.parametrize(
    ("model", "network", "features", "scale"),
    [
        ("SwinIRModel", {**SWINIR, "in_chans": 1}, GENERATOR, 1),
        ("SRModel", MSR, {"source": "generator", "modules": ["conv_first"]}, 2),
        ("SRModel", MSR, ENCODER, 2),
    ],
)
def test_one_channel_models_train_with_the_losses(tmp_path, model, network, features, scale):
    opt = options(tmp_path, model, features, scale=scale, location_opt=LOCATION)
    built = build({**opt, "network_g": network, "network_e": GREY_ENCODER})
    before = states(built)
    built.feed_data({key: value[:, :1] for key, value in batch(scale=scale).items()})
    built.optimize_parameters(1)
    assert {"l_nlcl", "l_nlcl_location"} <= set(built.get_current_log())
    assert all(not torch.equal(value, before[name]) for name, value in states(built).items() if name[:6] == "net_p.")


VSR = {"type": "BasicVSR", "num_feat": 4, "num_block": 1}
EDVR = {"type": "EDVR", "num_feat": 4, "deformable_groups": 1, "num_extract_block": 1, "num_reconstruct_block": 1}


@pytest.mark.parametrize(
    ("network", "features", "message"),
    [
        (VSR, GENERATOR, r"network_g \(BasicVSR\) takes no images \(B, 3 or 1, H, W\): .*; use a network that does"),
        (VSR, ENCODER, r"network_g \(BasicVSR\) takes no images"),
        (EDVR, ENCODER, r"network_g \(EDVR\) takes no images"),
        (MSR, {"source": "encoder"}, "train.nlcl_opt with crops of 32 pixels of one channel: "),  # an encoder of three
    ],
)
def test_networks_of_other_than_images_are_refused_when_the_model_is_built(tmp_path, network, features, message):
    opt = {**options(tmp_path, "SRModel", features, scale=2), "network_g": network}
    with pytest.raises(InputError, match=message) as raised:
        build(opt)
    assert "\n" not in str(raised.value)


# faults ---------------------------------------------------------------------------------------------------------------
FAULTS = [
    ("SRModel", DISCRIMINATOR, {}, r"source: discriminator means net_d, which NLCLSRModel lacks; use generator"),
    ("SRModel", {**GENERATOR, "modules": ["conv_frist"]}, {}, "no module 'conv_frist'; did you mean 'conv_first'"),
    ("SwinIRModel", {**GENERATOR, "modules": ["layers.0"]}, {}, r"'layers.0' puts out \(1, 256, 8\)"),
    ("SRModel", GENERATOR, {"layer_opt": {**LAYER, "sampling": {"patch_size": 17}}}, "with crops of 16 pixels"),
    ("SRModel", GENERATOR, {"optim_p": {"type": "Adma", "lr": 0.1}}, "optim_p.type: torch.optim has no 'Adma'"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "features", "changes", "message"), FAULTS)
def test_options_that_do_not_fit_are_refused_when_the_model_is_built(tmp_path, model, features, changes, message):
    with pytest.raises(InputError, match=message):
        build(options(tmp_path, model, features, **changes))


@pytest.mark.parametrize(("key", "features"), [("network_p", GENERATOR), ("network_e", ENCODER)])
def test_a_missing_network_is_named(tmp_path, key, features):
    opt = options(tmp_path, features=features)
    del opt[key]
    with pytest.raises(InputError, match=f"{key} is missing: train.nlcl_opt needs"):
        build(opt)


def test_a_network_that_puts_out_no_image_is_refused(tmp_path):
    opt = options(tmp_path, features=ENCODER)
    opt["network_g"] = opt["network_d"]
    with pytest.raises(InputError, match=r"received \(2, 3, 16, 16\) and \(2, 1, 16, 16\)"):
        step(build(opt), 1)
