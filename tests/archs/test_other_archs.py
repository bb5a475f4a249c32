import copy

import pytest
import torch
import torch.nn.functional as F

from nlcl_plugin.archs import (
    ContextUNet,
    FeatureEncoder,
    PatchDiscriminator,
    ProjectionHeads,
    ResidualUNet,
    SimpleGateUNet,
)
from nlcl_plugin.archs.simple_gate_unet_arch import _Block


def receptive_field(net, size=128):
    """Side of the square that one central logit sees, by the gradient. IN looks everywhere, so it is taken out."""
    net = copy.deepcopy(net)
    for index, layer in enumerate(net.layers):
        if isinstance(layer, torch.nn.InstanceNorm2d):
            net.layers[index] = torch.nn.Identity()
    x = torch.rand(1, 3, size, size, requires_grad=True)
    logits = net(x)
    logits[0, 0, logits.shape[2] // 2, logits.shape[3] // 2].backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero()
    return int(rows.max() - rows.min() + 1)


def test_strided_discriminator_sees_70_pixels():
    assert receptive_field(PatchDiscriminator(num_feat=4, antialias=False)) == 70


def test_discriminator_taps_of_the_released_code_are_the_convolutions():
    net = PatchDiscriminator(num_feat=4)
    assert all(isinstance(net.layers[i], torch.nn.Conv2d) for i in (0, 3, 7, 11))
    assert net.tap_channels((0, 3, 7, 11)) == [4, 8, 16, 32]
    x = torch.rand(2, 3, 64, 48)
    logits, features = net(x, taps=(11, 0))
    assert [f.shape[1] for f in features] == [32, 4]
    assert net(x).shape == logits.shape
    assert all(torch.equal(a, b) for a, b in zip(features, net(x, taps=(11, 0), features_only=True), strict=True))


def test_antialiased_halving_drops_what_half_the_pixels_cannot_hold():
    stripes = torch.ones(1, 4, 16, 16)
    stripes[..., 1::2] = -1  # alternating columns alias to a constant when every second one is taken
    blur = next(layer for layer in PatchDiscriminator(num_feat=4).layers if hasattr(layer, "kernel"))
    assert (stripes[..., ::2] == 1).all()
    assert blur(stripes).abs().max() < 1e-6
    torch.testing.assert_close(blur(torch.full((1, 4, 9, 9), 0.3)), torch.full((1, 4, 5, 5), 0.3))


@pytest.mark.parametrize("size", [(2, 3), (9, 8)])
def test_deterministic_halving_gives_the_same_values_and_gradients(size):
    blur = next(layer for layer in PatchDiscriminator(num_feat=4).layers if hasattr(layer, "kernel"))
    x, weight = torch.rand(2, 4, *size, dtype=torch.float64), torch.rand(2, 4, 1, 1, dtype=torch.float64)
    results = []
    for deterministic in (False, True):
        leaf = x.clone().requires_grad_()
        torch.use_deterministic_algorithms(deterministic)
        try:
            value = blur.double()(leaf)
            (value.square() * weight).sum().backward()
        finally:
            torch.use_deterministic_algorithms(False)
        results.append((value, leaf.grad))
    torch.testing.assert_close(*results)


def test_heads_exist_before_the_first_forward_and_give_unit_vectors():
    heads = ProjectionHeads([4, 6], num_feat=8)
    assert len(list(heads.parameters())) == 8
    outputs = heads([torch.rand(2, 3, 4), torch.rand(2, 5, 6)])
    assert [tuple(z.shape) for z in outputs] == [(2, 3, 8), (2, 5, 8)]
    for z in outputs:
        torch.testing.assert_close(z.norm(dim=-1), torch.ones(z.shape[:2]))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 64), (33, 50)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("restorer", [ResidualUNet, ContextUNet, SimpleGateUNet])
def test_restorers_take_any_size_and_start_near_the_identity(restorer, size, channels):
    torch.manual_seed(0)
    x = torch.rand(2, 3, *size)
    output = restorer(num_feat=8, num_out_ch=channels)(x)
    assert output.shape == x.shape
    assert (output - x).abs().max() < 0.1


def test_a_context_unet_starts_from_the_weights_of_a_residual_unet():
    torch.manual_seed(0)
    residual, context = (net(num_feat=8, num_block=2) for net in (ResidualUNet, ContextUNet))
    x = torch.rand(1, 3, 32, 32)
    missing, unexpected = context.load_state_dict(residual.state_dict(), strict=False)
    assert not unexpected
    assert {name.split(".")[0] for name in missing} == {"stat", "mlp", "late", "film"}
    change = (context(x) - residual(x)).square().mean() / (residual(x) - x).square().mean()
    assert change < 0.05


def test_a_context_unet_sees_the_whole_image_and_each_image_of_a_batch_alone():
    torch.manual_seed(0)
    net = ContextUNet(num_feat=8, num_block=1).double()
    torch.nn.init.normal_(net.film.weight)
    x = torch.rand(2, 3, 40, 300, dtype=torch.float64, requires_grad=True)
    y = net(x)
    torch.testing.assert_close(y[1:], net(x[1:]))
    (gradient,) = torch.autograd.grad(y[0, :, 20, 5].sum(), x, retain_graph=True)
    assert (gradient[0, :, :, -8:] != 0).any()  # 290 pixels away
    assert (gradient[1] == 0).all()
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_context_unet_equals_its_formula():
    """Scale and shift by the mean and the root mean square of the features of the lowest level, in a loop."""
    torch.manual_seed(0)
    net = ContextUNet(num_feat=4, num_block=1, num_late=2, num_stat=5).double()
    torch.nn.init.normal_(net.film.weight)
    x = torch.rand(1, 3, 12, 20, dtype=torch.float64)
    with torch.no_grad():
        e1, e2, out = net.encode(x)
        weight, bias = net.stat.weight[:, :, 0, 0], net.stat.bias
        stat = [
            (out[0] * weight[channel, :, None, None]).sum(0).add(bias[channel]).clamp(min=0) for channel in range(5)
        ]
        found = torch.stack([s.mean() for s in stat] + [(s.pow(2).mean() + 1e-6).sqrt() for s in stat])
        film = net.film(net.mlp(found[None]))[0]
        sizes = [16, 16, 8, 4]
        layers, skips = [*net.late, net.dec2, net.dec1], [None, None, (net.up2, e2), (net.up1, e1)]
        for layer, skip, size in zip(layers, skips, sizes, strict=True):
            if skip is not None:
                up, below = skip
                larger = out.repeat_interleave(2, -2).repeat_interleave(2, -1)
                out = below + up(larger).clamp(min=0)
            out = layer(out) * (1 + film[:size, None, None]) + film[size : 2 * size, None, None]
            film = film[2 * size :]
        torch.testing.assert_close(net(x), x - net.last(out))


def test_gated_blocks_start_as_the_identity_and_then_equal_the_formula_of_the_paper():
    torch.manual_seed(0)
    block, x = _Block(4).double(), torch.rand(2, 4, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), x)
    with torch.no_grad():
        block.weight_spatial.fill_(0.5)
        block.weight_channels.fill_(-2.0)
        norm, expand, depthwise = block.spatial[0].norm, block.spatial[1], block.spatial[2]
        y = F.layer_norm(x.permute(0, 2, 3, 1), (4,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
        y = depthwise(expand(y))
        y = y[:, :4] * y[:, 4:]
        y = y * block.attention[1](y.mean(dim=(2, 3), keepdim=True))
        middle = x + 0.5 * block.project(y)
        norm, expand, project = block.channels[0].norm, block.channels[1], block.channels[3]
        z = F.layer_norm(middle.permute(0, 2, 3, 1), (4,), norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
        z = expand(z)
        torch.testing.assert_close(block(x), middle - 2 * project(z[:, :4] * z[:, 4:]))


def test_every_parameter_of_the_gated_unet_has_a_gradient_once_its_blocks_are_open():
    net = SimpleGateUNet(num_feat=4)
    for name, parameter in net.named_parameters():
        if "weight_" in name:
            torch.nn.init.ones_(parameter)
    net(torch.rand(1, 3, 13, 9)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_encoder_halves_each_level_and_sees_each_image_alone():
    net, images = FeatureEncoder(num_feat=4, num_level=4), torch.rand(2, 3, 32, 48)
    levels = net(images)
    assert [tuple(level.shape[1:]) for level in levels] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (16, 4, 6)]
    for whole, alone in zip(levels, net(images[:1]), strict=True):
        torch.testing.assert_close(whole[:1], alone)
    levels[-1].sum().backward()
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: PatchDiscriminator(num_feat=4)(torch.rand(1, 3, 8, 8)), "cannot judge 8×8 pixels"),
        (lambda: ResidualUNet(num_out_ch=2), "1 or 3, but received 2"),
        (lambda: ContextUNet(num_out_ch=2), "1 or 3, but received 2"),
        (lambda: SimpleGateUNet(num_out_ch=2), "1 or 3, but received 2"),
        (lambda: SimpleGateUNet(enc_blocks=(1, 1), dec_blocks=(1,)), "as many levels, but received 2 and 1"),
    ],
)
def test_wrong_arguments_and_inputs_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
