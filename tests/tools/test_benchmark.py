"""The benchmark as a command, on the smallest cases, and the slow reference it compares with."""

import pytest
import torch
import torch.nn.functional as F


@pytest.fixture
def reference(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    from benchmarks import reference

    return reference


def test_the_step_agrees_with_the_reference_or_fails(reference, monkeypatch):
    from benchmarks import step

    assert step.agree("cpu", 64, small=True)
    monkeypatch.setattr(step, "masked_supcon", lambda b, r: reference.masked_supcon(b, r, temperature=0.08))
    with pytest.raises(RuntimeError, match="layer contrast: ours is"):
        step.agree("cpu", 64, small=True)


def test_the_loop_knows_borders_and_the_nearest_patch_is_the_query(reference):
    image = torch.rand(1, 2, 40, 40, generator=torch.Generator().manual_seed(0))
    places, distances = reference.loop_search(image, [8, 32], 6, search=6)
    assert places[0].tolist() == [8, 32]
    assert distances[0] == 0
    # From the corner the patch can move by two to one side only.
    assert places.min(0).values[0] >= 8
    assert places.max(0).values[1] <= 32
    for place, distance in zip(places.tolist(), distances, strict=True):
        there = image[..., place[0] - 8 : place[0] + 8, place[1] - 8 : place[1] + 8]
        torch.testing.assert_close(distance, (there - image[..., 0:16, 24:40]).square().sum())


def test_masked_supcon_is_the_mean_over_anchors_and_positives(reference):
    generator = torch.Generator().manual_seed(0)
    image, rain = (F.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (3, 4))
    everything = torch.cat((image, rain))
    layers = [0] * 3 + [1] * 4
    losses = []
    for i in range(7):
        terms = {j: (everything[i] @ everything[j] / 0.07).exp() for j in range(7) if j != i}
        positives = [j for j in terms if layers[j] == layers[i]]
        losses.append(-sum((terms[j] / sum(terms.values())).log() for j in positives) / len(positives))
    torch.testing.assert_close(reference.masked_supcon(image, rain), sum(losses) / 7, rtol=1e-4, atol=1e-5)
