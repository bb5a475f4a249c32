import pytest
import torch

from nlcl_plugin.archs import LayerGenerator


def small(**kwargs):
    torch.manual_seed(0)
    return LayerGenerator(num_feat=8, num_block=3, **kwargs)


def test_defaults_have_the_published_size():
    assert sum(p.numel() for p in LayerGenerator().parameters()) == 316_195


@pytest.mark.parametrize("size", [(1, 1), (33, 20)])
@pytest.mark.parametrize(("layer", "channels"), [("image", 3), ("rain", 3), ("residual", 1), ("residual", 3)])
def test_any_image_size_gives_a_finite_layer_of_the_same_size(size, layer, channels):
    output = small(layer=layer, num_out_ch=channels)(torch.rand(2, 3, *size))
    assert output.shape == (2, 3, *size)
    assert output.isfinite().all()


def test_residual_rain_is_positive_small_at_first_and_grey_with_one_channel():
    image = torch.rand(2, 3, 16, 16)
    rain = image - small(layer="residual", num_out_ch=1)(image)
    assert (rain > 0).all()
    assert rain.mean() < 0.05
    torch.testing.assert_close(rain[:, 0], rain[:, 2], atol=1e-6, rtol=0)


def test_image_and_rain_outputs_undo_the_internal_range():
    image, rain = small(layer="image"), small(layer="rain")
    rain.load_state_dict(image.state_dict())
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(image(x), rain(x) + 0.5)


def test_taps_are_what_the_layers_put_out_and_stopping_early_changes_nothing():
    net, x = small(), torch.rand(2, 3, 12, 10)
    seen = {}
    for index, module in [(0, net.head), *enumerate(net.blocks, 1), (4, net.tail2)]:
        module.register_forward_hook(lambda _m, _i, out, index=index: seen.__setitem__(index, out))
    layer, features = net(x, taps=(4, 0, 2))
    torch.testing.assert_close(layer, net(x))
    for feature, index in zip(features, (4, 0, 2), strict=True):
        assert torch.equal(feature, seen[index])
    seen.clear()
    early = net(x, taps=(0, 2), features_only=True)
    assert set(seen) == {0, 1, 2}
    assert torch.equal(early[1], features[2])
    assert net.tap_channels((0, 4)) == [8, 8]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [({"layer": "snow"}, "image, rain, residual"), ({"layer": "residual", "num_out_ch": 2}, "num_out_ch 1 or 3")],
)
def test_wrong_arguments_are_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        LayerGenerator(**arguments)


def test_wrong_tap_is_refused():
    with pytest.raises(ValueError, match=r"\[0, 4\], but received \[5\]"):
        small()(torch.rand(1, 3, 4, 4), taps=(0, 5))
