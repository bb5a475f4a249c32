import pytest
import torch
from model_helpers import ADAM, build, options, step

from nlcl_plugin.config.train_options import CompositePatches
from nlcl_plugin.losses import AsymmetricNLCLLoss, lay_rain
from nlcl_plugin.models.composite_contrast import compare_composites
from nlcl_plugin.rain.batch_random import BatchRandom

SMALL = {"num_queries": 3, "num_positives": 2, "num_negatives": 2, "patch_size": 4, "search_size": 8}
BLOCK = {"type": "AsymmetricNLCLLoss", "form": "single", "temperature": 0.02, "sampling": SMALL}


def images(n=2, size=20):
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(n, 3, size, size, generator=generator)
    rain = 0.5 * torch.rand(n, 1, size, size, generator=generator) * torch.rand(n, 1, 1, size, generator=generator)
    return clean, lay_rain(clean, rain)


def patch(image, centre, size):
    top, left = int(centre[0]) - size // 2, int(centre[1]) - size // 2
    return image.mean(dim=0)[top : top + size, left : left + size].flatten()


@pytest.mark.parametrize("candidates", [4, 1])
def test_what_is_compared_equals_plain_loops(candidates):
    clean, composite = images()
    derained = (0.7 * clean + 0.3 * composite).requires_grad_()
    chosen = CompositePatches(**SMALL, num_candidates=candidates)
    found = compare_composites(derained, composite, clean, chosen, BatchRandom(1, 1, range(2), 2))
    drawn = BatchRandom(1, 1, range(2), 2).centres(candidates * 3, (20, 20), 4, clean.device)
    for b in range(2):
        laid = composite[b] - clean[b]
        places = sorted(drawn[b].tolist(), key=lambda c: -patch(laid, c, 4).sum().item())[:3]
        textures = [patch(clean[b], c, 4) - patch(clean[b], c, 4).mean() for c in places]
        for q, place in enumerate(places):
            torch.testing.assert_close(found.image[0][b, q], patch(derained[b], place, 4))
            torch.testing.assert_close(found.rain[0][b, q], patch(composite[b] - derained[b], place, 4))
            window = [(r, c) for r in range(place[0] - 4, place[0] + 4) for c in range(place[1] - 4, place[1] + 4)]
            inside = [p for p in window if all(2 <= x <= 18 for x in p)]

            def distance(p, b=b, place=place):
                one, other = (clean[b, :, r - 2 : r + 2, c - 2 : c + 2] for r, c in (p, place))
                return (one - other).square().sum().item()

            nearest = sorted(inside, key=distance)[:2]
            assert nearest[0] == tuple(place)
            positives, negatives = (x[b, q] for x in found.image_references[0])
            torch.testing.assert_close(positives, torch.stack([patch(clean[b], p, 4) for p in nearest]))
            rains = [patch(laid, places[(q - step) % 3], 4) for step in range(2)]
            base = patch(clean[b], place, 4)
            torch.testing.assert_close(negatives, torch.stack([base + s * r for s in (0.5, -0.5) for r in rains]))
            positives, negatives = (x[b, q] for x in found.rain_references[0])
            torch.testing.assert_close(positives, rains[0][None])
            own = [textures[(q - step) % 3] for step in range(2)]
            torch.testing.assert_close(negatives, torch.stack([rains[0] + s * t for s in (0.5, -0.5) for t in own]))


def test_only_the_derained_image_gets_gradients_and_it_moves_towards_the_clean_one():
    clean, composite = images(size=32)
    tensors = [clean.requires_grad_(), composite.detach().requires_grad_()]
    derained = (0.5 * (clean + composite)).detach().requires_grad_()
    compared = compare_composites(derained, *tensors[::-1], CompositePatches(), BatchRandom(0, 1, range(2), 2))
    loss = AsymmetricNLCLLoss(form="single", temperature=0.02)(compared.image, compared.rain, *compared[2:])
    (gradient,) = torch.autograd.grad(loss, derained, retain_graph=True)
    assert (gradient * (derained - clean)).sum() > 0
    assert torch.autograd.grad(loss, clean, allow_unused=True)[0] is None


def test_its_weight_and_ramp_scale_what_the_restorer_minimises(tmp_path):
    def gradient(**block):
        restorer = {"start_iter": 0, "composite_opt": {**BLOCK, **block} if block else None}
        model = build(options(tmp_path, restorer_opt=restorer, optim_s=ADAM))
        step(model, 1)
        return torch.cat([p.grad.flatten() for p in model.net_s.parameters()])

    without = gradient()
    full, half = gradient(loss_weight=1.0) - without, gradient(loss_weight=1.0, ramp_iter=2) - without
    assert full.abs().max() > 0
    torch.testing.assert_close(half, full / 2, rtol=1e-3, atol=1e-6)
