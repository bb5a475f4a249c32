"""The search on a device finds bit for bit what it finds on a CPU, and waits once."""

import math

import pytest
import torch
from pretended_device import waits
from test_patch_search import image_makers, make_image, spread_queries

from nlcl_plugin.ops import intrinsic_dimension, layer_dimensions, nonlocal_neighbours, patch_search


def search(features, queries, **arguments):
    return nonlocal_neighbours(features, queries, patch_size=4, search_size=10, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", image_makers())
def test_same_as_on_the_cpu_with_ties_and_borders(device, monkeypatch, name, dtype):
    monkeypatch.setattr(patch_search, "_BLOCK_BYTES", 128 * 100 * 5)  # more than one block
    image, queries = make_image(name, height=14, width=17).to(dtype), spread_queries(2, 14, 17, 4)
    for k, include_query in ((1, True), (8, False), (25, True)):
        expected = search(image, queries, k=k, include_query=include_query)
        found = search(image.to(device), queries.to(device), k=k, include_query=include_query)
        assert all(torch.equal(f.cpu(), e) for f, e in zip(found, expected, strict=True))


def test_a_search_waits_once_and_checks_values_where_asked_to(device):
    image, queries = make_image("random").to(device), spread_queries(2, 26, 33, 4).to(device)
    waits.clear()
    search(image, queries, k=8)
    assert len(waits) == 1
    with pytest.raises(ValueError, match="k = 26 is above the 25 candidates"):
        search(image, queries, k=26)
    for arguments, message in (((image * torch.nan, queries), "must be finite"), ((image, queries - 9), "leaves the")):
        search(image * torch.nan, queries, k=8)
        with pytest.raises(ValueError, match=message):
            search(*arguments, k=8, validate=True)


@pytest.mark.parametrize("method", ["mle", "two_nn"])
def test_dimension_is_that_of_the_cpu(device, method):
    points = torch.rand(2, 40, 6, generator=torch.Generator().manual_seed(0))
    for k in (5, (4, 8)):
        expected = intrinsic_dimension(points, k=k, method=method)
        torch.testing.assert_close(intrinsic_dimension(points.to(device), k=k, method=method).cpu(), expected)


def test_dimensions_of_layers_are_those_of_the_cpu_with_every_argument(device):
    layers = make_image("random"), make_image("random")[:, :1].sqrt()
    every = {"patch_size": 4, "search_size": 12, "k": 16, "num_queries": 3, "flat": 0.01}
    for arguments in ({}, every):
        on_cpu, found = (
            layer_dimensions(*images, generator=torch.Generator().manual_seed(0), **{"k": 8, **arguments})
            for images in (layers, [layer.to(device) for layer in layers])
        )
        assert found == pytest.approx(on_cpu)
    assert all(map(math.isfinite, layer_dimensions(*(layer.to(device) for layer in layers))))  # torch's own generator
