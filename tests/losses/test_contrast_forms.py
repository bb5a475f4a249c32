import math

import pytest
import torch
import torch.nn.functional as F

from nlcl_plugin.losses import AsymmetricNLCLLoss, References, anchor_losses, layer_contrast, layer_contrast_floor
from nlcl_plugin.losses.contrast_forms import FORMS


def by_hand(positives, negatives, form):
    """One anchor, as the formulas are written."""
    top = [torch.exp(s) for s in positives]
    bottom = sum(torch.exp(s) for s in negatives)
    if form == "out":
        return sum(-torch.log(e / (sum(top) + bottom)) for e in top) / len(top)
    if form == "in":
        return -torch.log(sum(e / (sum(top) + bottom) for e in top) / len(top))
    if form == "decoupled":
        return sum(-torch.log(e / bottom) for e in top) / len(top)
    return sum(-torch.log(e / (e + bottom)) for e in top) / len(top)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("form", FORMS)
def test_forms_equal_their_formulas_in_value_and_gradient(form):
    positives, negatives = random(4, 3).requires_grad_(), random(4, 5, seed=1).requires_grad_()
    found = anchor_losses(positives, negatives, form)
    wanted = torch.stack([by_hand(p, n, form) for p, n in zip(positives, negatives, strict=True)])
    torch.testing.assert_close(found, wanted)
    weights = random(4, seed=2)
    for a, b in zip(
        torch.autograd.grad((found * weights).sum(), (positives, negatives)),
        torch.autograd.grad((wanted * weights).sum(), (positives, negatives)),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("form", FORMS)
def test_absent_positives_change_neither_value_nor_gradient(form):
    positives, negatives = random(4, 3).requires_grad_(), random(4, 5, seed=1)
    plain = anchor_losses(positives, negatives, form)
    absent = torch.full((4, 1), -math.inf, dtype=torch.float64)
    padded = anchor_losses(torch.cat((positives, absent), dim=1), negatives, form)
    torch.testing.assert_close(padded, plain)
    (gradient,) = torch.autograd.grad(padded.sum(), positives)
    torch.testing.assert_close(gradient, torch.autograd.grad(plain.sum(), positives)[0])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_layer_contrast_equals_loops_over_its_patches(form):
    image, rain = (F.normalize(random(2, n, 6, seed=n), dim=-1) for n in (4, 5))
    loss = AsymmetricNLCLLoss(
        form=form, asymmetry="fixed", temperature_image=0.3, temperature_rain=0.5, weight_image=2.0
    )
    total = 0.0
    for a, b in zip(image, rain, strict=True):
        for own, other, temperature, weight in ((a, b, 0.3, 2.0), (b, a, 0.5, 1.0)):
            for i, anchor in enumerate(own):
                positives = [anchor @ p / temperature for j, p in enumerate(own) if j != i]
                total = total + weight * by_hand(positives, [anchor @ n / temperature for n in other], form)
    assert loss([image], [rain]).item() == pytest.approx(total.item() / (2 * 9), rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_floors_are_approached_by_two_opposite_points_and_never_undercut(form):
    point = torch.eye(3, dtype=torch.float64)[None, :1]
    image, rain = point.expand(1, 6, 3), -point.expand(1, 9, 3)
    floor = layer_contrast_floor(6, 9, form=form)
    assert form != "out" or floor == pytest.approx((6 * math.log(5) + 9 * math.log(8)) / 15)
    assert layer_contrast(image, rain, form=form).item() == pytest.approx(floor, abs=1e-9)
    for seed in range(20):
        a, b = (F.normalize(random(1, n, 3, seed=seed + n), dim=-1) for n in (6, 9))
        assert layer_contrast(a, b, form=form).item() > floor


@pytest.mark.parametrize("form", FORMS)
def test_for_unit_vectors_references_compare_as_dot_products_do(form):
    image, rain = (F.normalize(random(2, n, 6, seed=n), dim=-1) for n in (4, 5))

    def references(own, other):
        n = own.shape[1]
        others = torch.stack([own[:, [j for j in range(n) if j != i]] for i in range(n)], dim=1)
        return References(others, other[:, None].expand(-1, n, -1, -1))

    loss = AsymmetricNLCLLoss(form=form, temperature=0.4)
    found = loss([image], [rain], [references(image, rain)], [references(rain, image)])
    # Here each layer counts the same, there each anchor does.
    image_only = AsymmetricNLCLLoss(form=form, asymmetry="fixed", temperature=0.4, weight_rain=0.0)
    rain_only = AsymmetricNLCLLoss(form=form, asymmetry="fixed", temperature=0.4, weight_image=0.0)
    wanted = (image_only([image], [rain]) * 9 / 4 + rain_only([image], [rain]) * 9 / 5) / 2
    assert found.item() == pytest.approx(wanted.item(), rel=1e-9)


def test_references_that_do_not_fit_are_refused():
    loss, anchors = AsymmetricNLCLLoss(form="single"), torch.zeros(1, 3, 4)
    good, bad = References(torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 2, 4)), References(anchors, anchors)
    with pytest.raises(ValueError, match="go together"):
        loss([anchors], [anchors], [good])
    with pytest.raises(ValueError, match=r"positives \(B, N, number, D\), but received \(1, 3, 4\)"):
        loss([anchors], [anchors], [bad], [good])
