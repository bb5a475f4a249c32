import math

import pytest
import torch
import torch.nn.functional as F

from nlcl_plugin.losses import AsymmetricNLCLLoss, layer_contrast, layer_contrast_floor


def embeddings(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def supcon_out_by_loops(image, rain, temperature):
    """SupCon eq. 2 (L_out), as it is written: loops over anchors and positives of one item."""
    points = [*image, *rain]
    labels = [0] * len(image) + [1] * len(rain)
    total = 0.0
    for i, anchor in enumerate(points):
        others = [j for j in range(len(points)) if j != i]
        denominator = sum(torch.exp(anchor @ points[j] / temperature) for j in others)
        positives = [j for j in others if labels[j] == labels[i]]
        terms = [torch.log(torch.exp(anchor @ points[j] / temperature) / denominator) for j in positives]
        total = total - sum(terms) / len(positives)
    return total / len(points)


@pytest.mark.parametrize(("n_image", "n_rain"), [(2, 2), (8, 5), (3, 20)])
def test_symmetric_form_equals_supcon_out_in_value_and_gradient(n_image, n_rain):
    image = embeddings(3, n_image, 6).requires_grad_()
    rain = embeddings(3, n_rain, 6, seed=1).requires_grad_()
    value = AsymmetricNLCLLoss()([image], [rain])
    expected = sum(supcon_out_by_loops(image[b], rain[b], 0.07) for b in range(3)) / 3
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    got = torch.autograd.grad(value, (image, rain))
    wanted = torch.autograd.grad(expected, (image, rain))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_gradcheck_in_double_precision():
    image, rain = embeddings(2, 3, 4).requires_grad_(), embeddings(2, 5, 4, seed=1).requires_grad_()

    def function(a, b):
        return layer_contrast(a, b, temperature_image=0.3, temperature_rain=0.5, weight_rain=2.0)

    assert torch.autograd.gradcheck(function, (image, rain))


def test_taps_are_averaged_and_the_weight_multiplies():
    image, rain = [embeddings(1, 4, 5), embeddings(1, 4, 8)], [embeddings(1, 6, 5, seed=1), embeddings(1, 6, 8, seed=1)]
    each = [AsymmetricNLCLLoss()([a], [b]).item() for a, b in zip(image, rain, strict=True)]
    assert AsymmetricNLCLLoss(loss_weight=3.0)(image, rain).item() == pytest.approx(3 * sum(each) / 2)


def test_floor_of_the_module_follows_weights_and_taps():
    loss = AsymmetricNLCLLoss(loss_weight=2.0, asymmetry="fixed", weight_image=0.5)
    image, rain = [embeddings(1, 4, 5), embeddings(1, 8, 5)], [embeddings(1, 6, 5), embeddings(1, 9, 5)]
    expected = layer_contrast_floor(4, 6, weight_image=0.5) + layer_contrast_floor(8, 9, weight_image=0.5)
    assert loss.floor(image, rain) == pytest.approx(expected)


def test_half_precision_and_autocast_are_computed_in_fp32():
    image, rain = embeddings(2, 8, 16).bfloat16(), embeddings(2, 16, 16, seed=1).bfloat16()
    expected = AsymmetricNLCLLoss()([image.float()], [rain.float()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [AsymmetricNLCLLoss()([image.float()], [rain.float()])]
    for value in (*found, AsymmetricNLCLLoss()([image], [rain])):
        assert value.dtype == torch.float32
        assert value == expected


def test_compiled_loss_equals_eager():
    image, rain = embeddings(2, 8, 16, dtype=torch.float32), embeddings(2, 16, 16, seed=1, dtype=torch.float32)
    compiled = torch.compile(AsymmetricNLCLLoss(), backend="aot_eager")
    torch.testing.assert_close(compiled([image], [rain]), AsymmetricNLCLLoss()([image], [rain]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"form": "inn"}, "form must be one of out, in, decoupled, single"),
        ({"asymmetry": "auto?"}, "asymmetry must be one of none, fixed, auto"),
        ({"asymmetry": "auto", "weight_rain": 2.0}, "need asymmetry: fixed, but received asymmetry: auto"),
        ({"temperature": 0}, "temperatures must be positive, but received 0"),
        ({"asymmetry": "fixed", "weight_rain": -1}, "weights must not be negative"),
        ({"temperature_rain": 0.1}, "need asymmetry: fixed"),
    ],
)
def test_wrong_arguments_are_refused_by_value(arguments, match):
    with pytest.raises(ValueError, match=match):
        AsymmetricNLCLLoss(**arguments)


@pytest.mark.parametrize(
    ("image", "rain", "match"),
    [
        ((2, 3, 4), (1, 3, 4), r"received \(2, 3, 4\) and \(1, 3, 4\)"),
        ((2, 3, 4), (2, 3, 5), "expected embeddings"),
        ((3, 4), (3, 4), "expected embeddings"),
        ((2, 1, 4), (2, 3, 4), "at least two patches"),
    ],
)
def test_wrong_shapes_are_refused(image, rain, match):
    with pytest.raises(ValueError, match=match):
        AsymmetricNLCLLoss()([torch.zeros(image)], [torch.zeros(rain)])


def test_unequal_numbers_of_taps_are_refused():
    with pytest.raises(ValueError, match="received 1 and 2"):
        AsymmetricNLCLLoss()([embeddings(1, 3, 4)], [embeddings(1, 3, 4)] * 2)


def gathered_by_loops(image, rain, temperature):
    """Positives within an item, negatives the other layer's patches of all items."""
    total = 0.0
    for b in range(len(image)):
        for anchors, negatives in ((image[b], rain.flatten(0, 1)), (rain[b], image.flatten(0, 1))):
            for i, anchor in enumerate(anchors):
                own = [torch.exp(anchor @ p / temperature) for j, p in enumerate(anchors) if j != i]
                denominator = sum(own) + sum(torch.exp(anchor @ p / temperature) for p in negatives)
                total = total - sum(torch.log(positive / denominator) for positive in own) / len(own)
    return total / (len(image) * (image.shape[1] + rain.shape[1]))


def test_gathered_negatives_are_those_of_all_images_in_value_and_gradient():
    image = embeddings(3, 4, 6).requires_grad_()
    rain = embeddings(3, 5, 6, seed=1).requires_grad_()
    value = AsymmetricNLCLLoss(gather_negatives=True)([image], [rain])
    expected = gathered_by_loops(image, rain, 0.07)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    got = torch.autograd.grad(value, (image, rain))
    wanted = torch.autograd.grad(expected, (image, rain))
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-7)


def test_gathering_changes_nothing_for_one_image():
    image, rain = embeddings(1, 4, 6), embeddings(1, 5, 6, seed=1)
    alone = AsymmetricNLCLLoss()([image], [rain])
    torch.testing.assert_close(AsymmetricNLCLLoss(gather_negatives=True)([image], [rain]), alone)


def test_automatic_asymmetry_follows_the_running_mean_of_what_it_observes():
    image, rain = [embeddings(2, 4, 5)], [embeddings(2, 7, 5, seed=1)]
    loss = AsymmetricNLCLLoss(asymmetry="auto", temperature=0.1)
    torch.testing.assert_close(loss(image, rain), AsymmetricNLCLLoss(temperature=0.1)(image, rain), rtol=1e-6, atol=0)
    loss.observe(math.log(4.0))
    fixed = AsymmetricNLCLLoss(asymmetry="fixed", temperature_image=0.2, temperature_rain=0.05)
    torch.testing.assert_close(loss(image, rain), fixed(image, rain), rtol=1e-6, atol=0)
    assert loss.floor(image, rain) == pytest.approx(fixed.floor(image, rain))
    loss.observe(0.0)
    image_now, rain_now = loss.temperatures()
    assert (image_now / rain_now).item() == pytest.approx(4**0.9)
    assert (image_now * rain_now).item() == pytest.approx(0.01)
    resumed = AsymmetricNLCLLoss(asymmetry="auto", temperature=0.1)
    resumed.load_state_dict(loss.state_dict())
    assert resumed(image, rain) == loss(image, rain)
    assert not AsymmetricNLCLLoss().state_dict()
