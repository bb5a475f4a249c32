import pytest
import torch
import torch.nn.functional as F

from nlcl_plugin.losses import LocationContrastLoss


def embeddings(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=dtype), dim=-1)


def by_loops(queries, keys, temperature, negatives, kept):
    """One item: for each place the positive against all, the nearest or the farthest other keys."""
    total = 0.0
    n = len(queries)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        if negatives != "random":
            others.sort(key=lambda j: float(keys[i] @ keys[j]), reverse=negatives == "similar")
            others = others[:kept]
        positive = torch.exp(queries[i] @ keys[i] / temperature)
        total = total - torch.log(
            positive / (positive + sum(torch.exp(queries[i] @ keys[j] / temperature) for j in others))
        )
    return total / n


@pytest.mark.parametrize(("negatives", "kept"), [("random", None), ("similar", 3), ("dissimilar", 3), ("similar", 8)])
def test_equals_the_loop_in_value_and_gradient(negatives, kept):
    queries = embeddings(2, 9, 5).requires_grad_()
    keys = embeddings(2, 9, 5, seed=1)
    value = LocationContrastLoss(negatives=negatives, num_negatives=kept)([queries], [keys])
    expected = sum(by_loops(queries[b], keys[b], 0.07, negatives, kept) for b in range(2)) / 2
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    got, wanted = torch.autograd.grad(value, queries)[0], torch.autograd.grad(expected, queries)[0]
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-7)


def test_keys_get_no_gradient():
    queries, keys = embeddings(1, 4, 5).requires_grad_(), embeddings(1, 4, 5, seed=1).requires_grad_()
    LocationContrastLoss()([queries], [keys]).backward()
    assert queries.grad is not None
    assert keys.grad is None


def test_autocast_computes_in_fp32():
    queries, keys = embeddings(1, 8, 16, dtype=torch.float32), embeddings(1, 8, 16, seed=1, dtype=torch.float32)
    expected = LocationContrastLoss()([queries], [keys])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert LocationContrastLoss()([queries], [keys]) == expected


def test_gathered_negatives_are_the_keys_of_all_images_in_value_and_gradient():
    queries = embeddings(2, 4, 5).requires_grad_()
    keys = embeddings(2, 4, 5, seed=1)
    value = LocationContrastLoss(gather_negatives=True)([queries], [keys])
    expected = 0.0
    for b in range(2):
        for i in range(4):
            every = sum(torch.exp(queries[b, i] @ key / 0.07) for key in keys.flatten(0, 1))
            expected = expected - torch.log(torch.exp(queries[b, i] @ keys[b, i] / 0.07) / every) / 8
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    got, wanted = torch.autograd.grad(value, queries)[0], torch.autograd.grad(expected, queries)[0]
    torch.testing.assert_close(got, wanted, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "queries", "keys", "match"),
    [
        ({"negatives": "hard"}, (1, 4, 5), (1, 4, 5), "random, similar, dissimilar"),
        ({"temperature": -1}, (1, 4, 5), (1, 4, 5), "must be positive"),
        ({"negatives": "similar", "num_negatives": 9}, (1, 4, 5), (1, 4, 5), r"\[1, 3\] for 4 places, but received 9"),
        ({}, (1, 1, 5), (1, 1, 5), "at least two locations"),
        ({}, (1, 4, 5), (1, 3, 5), r"received \(1, 4, 5\) and \(1, 3, 5\)"),
        ({"negatives": "similar", "gather_negatives": True}, (1, 4, 5), (1, 4, 5), "gather_negatives goes with negat"),
    ],
)
def test_wrong_arguments_and_inputs_are_refused(arguments, queries, keys, match):
    with pytest.raises(ValueError, match=match):
        LocationContrastLoss(**arguments)([embeddings(*queries)], [embeddings(*keys)])
