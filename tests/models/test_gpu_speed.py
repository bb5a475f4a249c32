"""What makes a step fast on a GPU, seen on a CPU: whole graphs, one memory layout, joined updates, equal results."""

import copy
from functools import partial

import pytest
import torch
from model_helpers import ADAM, RESTORER, batch, build, options, step
from torch import nn
from training_helpers import tiny_options

from nlcl_plugin import archs, losses
from nlcl_plugin.config.option_files import complete
from nlcl_plugin.models.optimization import frozen_copy, update_average
from nlcl_plugin.training.loaders import TrainingBatches

NETS = {
    "generator": partial(archs.LayerGenerator, num_feat=8, num_block=1),
    "checkpointed": partial(archs.LayerGenerator, num_feat=8, num_block=1, checkpointing=True),
    "discriminator": partial(archs.PatchDiscriminator, num_feat=8, num_layers=2),
    "encoder": partial(archs.FeatureEncoder, num_feat=8, num_level=2),
    "unet": partial(archs.ResidualUNet, num_feat=8, num_block=1),
    "context": partial(archs.ContextUNet, num_feat=8, num_block=1, num_late=1, num_stat=8),
    "gated": partial(archs.SimpleGateUNet, num_feat=8, enc_blocks=[1], middle_blocks=1, dec_blocks=[1]),
}
LOSSES = {
    "out": losses.AsymmetricNLCLLoss,
    **{form: partial(losses.AsymmetricNLCLLoss, form=form) for form in ("in", "decoupled", "single")},
    "auto": partial(losses.AsymmetricNLCLLoss, asymmetry="auto", gather_negatives=True),
    "random": partial(losses.LocationContrastLoss, gather_negatives=True),
    **{kind: partial(losses.LocationContrastLoss, negatives=kind) for kind in ("similar", "dissimilar")},
    "relay": losses.RelayLoss,
}


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def outputs(found):
    return [found] if isinstance(found, torch.Tensor) else [x for part in found for x in outputs(part)]


def assert_one_graph(module, *arguments, **keywords):
    """One graph, or torch raises, with the values and gradients of the module as it is."""
    graphs, results = [], []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    for run in (module, torch.compile(module, backend=count, fullgraph=True)):
        module.zero_grad()
        values = outputs(run(*arguments, **keywords))
        sum(value.float().square().sum() for value in values).backward()
        results.append((values, [p.grad.clone() for p in module.parameters() if p.grad is not None]))
    torch.testing.assert_close(results[0], results[1])
    assert len(graphs) == 1


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_networks_compile_to_one_graph(name, amp):
    net, keywords = NETS[name](), {}
    if isinstance(net, archs.LayerGenerator | archs.PatchDiscriminator):
        keywords = {"taps": (0, 2)}
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        assert_one_graph(net, torch.rand(2, 3, 32, 32), **keywords)


def test_features_and_heads_compile_to_one_graph():
    assert_one_graph(NETS["generator"](), torch.rand(2, 3, 32, 32), taps=(0, 2), features_only=True)
    assert_one_graph(archs.ProjectionHeads([8, 4], num_feat=8), [torch.rand(2, 5, 8), torch.rand(2, 7, 4)])


@pytest.mark.parametrize("name", LOSSES)
def test_losses_compile_to_one_graph(name):
    a, b = (nn.functional.normalize(torch.rand(2, 6, 8), dim=-1).requires_grad_() for _ in range(2))
    assert_one_graph(LOSSES[name](), *((a, b) if name == "relay" else ([a], [b])))


def test_loss_with_references_compiles_to_one_graph():
    anchors, references = torch.rand(2, 6, 8, requires_grad=True), losses.References(*torch.rand(2, 2, 6, 3, 8))
    assert_one_graph(losses.AsymmetricNLCLLoss(), [anchors], [anchors], [references], [references])


MANY_SIZES = {"generator": 2, "discriminator": 2, "encoder": 2, "unet": 2, "context": 2, "gated": 3}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "gated" else ()) for name in MANY_SIZES]
)
def test_images_of_many_sizes_are_not_compiled_one_by_one(name):
    """One graph of the first size, one of any; `gated` has one for sizes that it pads and one for those it does not.

    Below about 100 pixels there are more, as torch tells small convolutions on a CPU apart.
    """
    net, graphs = frozen_copy(NETS[name]()), []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    net.compile(backend=count, fullgraph=True)
    for size in ((112, 120), (109, 131), (128, 128), (117, 113), (140, 106)):
        net(torch.rand(1, 3, *size))
    assert len(graphs) == MANY_SIZES[name]


def test_copies_that_stage_two_runs_are_compiled_too(tmp_path):
    model = build(options(tmp_path, compile=True, restorer_opt={"start_iter": 2, "rounds": [2]}, optim_s=ADAM))
    compiled = {label for label, net in model.averages.items() if net._compiled_call_impl is not None}
    assert compiled == {"g", "t"}


@pytest.mark.parametrize("amp", [None, "bf16"])
@pytest.mark.parametrize("restorer", ["ResidualUNet", "ContextUNet", "SimpleGateUNet"])
def test_each_convolution_gets_channels_last(tmp_path, restorer, amp):
    opt = options(tmp_path, decomposition="two_branch", channels_last=True, amp=amp, **RESTORER)
    opt["network_d"]["antialias"] = True
    opt["network_s"] = {"type": restorer, "num_feat": 8}
    model = build(opt)
    seen, wrong = set(), set()

    def watch(name, convolution, arguments):
        seen.add(name)
        layouts = [x.is_contiguous(memory_format=torch.channels_last) for x in (arguments[0], convolution.weight)]
        if not all(layouts):
            wrong.add(f"{name}: input, weight: {layouts}")

    named = [*model.nets.items(), *((f"average {label}", net) for label, net in model.averages.items())]
    convolutions = {f"{label}.{name}": m for label, net in named for name, m in net.named_modules()}
    convolutions = {name: m for name, m in convolutions.items() if isinstance(m, nn.Conv2d)}
    for name, convolution in convolutions.items():
        convolution.register_forward_pre_hook(partial(watch, name))
    for current_iter in (1, 2, 3):  # the last one is of stage 2
        step(model, current_iter)
        model.feed_data(batch(size=37))
        model.test()
    assert not wrong
    assert seen == convolutions.keys()


@pytest.mark.parametrize("name", ["generator", "discriminator"])
def test_keeping_the_memory_layout_changes_no_value(name):
    x = torch.rand(2, 16, 9, 11).contiguous(memory_format=torch.channels_last).requires_grad_()
    norm = archs.layer_generator_arch._instance_norm if name == "generator" else NETS[name]().layers[4]
    found, expected = norm(x), nn.functional.instance_norm(x)
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    weights = torch.rand_like(expected)
    assert torch.equal(*(torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)))


@pytest.mark.parametrize(
    ("num_gpu", "asked", "expected"),
    [(1, {}, True), (1, {"pin_memory": None}, True), (1, {"pin_memory": False}, False), (0, {}, False)],
)
def test_training_batches_are_pinned_where_a_gpu_is_used(folder, monkeypatch, num_gpu, asked, expected):
    monkeypatch.chdir(folder)
    opt = tiny_options()
    complete(opt, root="", is_train=True, auto_resume=False, debug=False)
    opt.update(num_gpu=num_gpu, dist=False, rank=0, world_size=1, manual_seed=0)
    opt["datasets"]["train"].update(asked)
    assert TrainingBatches(opt)._loader.pin_memory is expected
    assert opt["datasets"]["train"].get("pin_memory") == asked.get("pin_memory")  # as resuming compares it


def test_joined_update_of_averages_equals_the_loop():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    average, expected = frozen_copy(net), frozen_copy(net)
    for age in (1, 5, 10_000):
        for p in (*net.parameters(), *net.buffers()):
            p.data += torch.ones_like(p) + age
        update_average(average, net, decay=0.99, age=age)
        for mean, parameter in zip(expected.parameters(), net.parameters(), strict=True):
            mean.lerp_(parameter.detach(), 1 - min(0.99, (age + 1) / (age + 10)))
        assert all(torch.equal(a, b) for a, b in zip(average.parameters(), expected.parameters(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(average.buffers(), net.buffers(), strict=True))


@pytest.mark.parametrize("way", ["fused", "foreach"])
def test_option_files_may_ask_for_a_way_of_adam_which_steps_alike_and_resumes(tmp_path, way):
    plain, joined = (build(options(tmp_path, grad_clip=1.0, optim_g={**ADAM, **asked})) for asked in ({}, {way: True}))
    assert joined.optimizer["g"].defaults[way]
    for current_iter in (1, 2):
        assert step(joined, current_iter) == pytest.approx(step(plain, current_iter), rel=1e-4, abs=1e-6)
    joined.save(0, 2)
    again = build(joined.opt)
    for label in joined.nets:
        again.nets[label].load_state_dict(copy.deepcopy(joined.nets[label].state_dict()))
    again.resume_training(torch.load(tmp_path / "2.state", weights_only=True))
    assert step(again, 3) == step(joined, 3)
