import itertools
import math

import pytest
import torch

from nlcl_plugin.ops import nonlocal_neighbours, patch_search, random_centres


def loop_search(image, query, patch_size, search_size, k, include_query=True):
    """The obvious search in one image (C, H, W); sums are correctly rounded, so equal distances come out equal."""
    before = patch_size // 2
    image = image.double()
    height, width = image.shape[1:]

    def patch(row, column):
        row, column = row - before, column - before
        return image[:, row : row + patch_size, column : column + patch_size]

    found = []
    for row in range(query[0] - search_size // 2, query[0] - search_size // 2 + search_size):
        for column in range(query[1] - search_size // 2, query[1] - search_size // 2 + search_size):
            rows_fit = before <= row <= height - patch_size + before
            columns_fit = before <= column <= width - patch_size + before
            if rows_fit and columns_fit and (include_query or (row, column) != tuple(query)):
                squares = (patch(row, column) - patch(*query)) ** 2
                found.append((math.fsum(squares.flatten().tolist()), row, column))
    found.sort()
    return found[:k], len(found)


def assert_same_as_loop(features, queries, patch_size, search_size, k, include_query=True):
    sizes = {"patch_size": patch_size, "search_size": search_size}
    centres, distances = nonlocal_neighbours(features, queries, k=k, include_query=include_query, **sizes)
    assert centres.shape == (*queries.shape[:2], k, 2)
    assert distances.shape == (*queries.shape[:2], k)
    assert centres.dtype == torch.int64
    assert distances.dtype == (torch.float64 if features.dtype == torch.float64 else torch.float32)
    for b, q in itertools.product(*(range(n) for n in queries.shape[:2])):
        query = queries[b, q].tolist()
        want, _ = loop_search(features[b], query, patch_size, search_size, k, include_query)
        assert centres[b, q].tolist() == [[row, column] for _, row, column in want]
        want = torch.tensor([value for value, _, _ in want], dtype=torch.float64).to(distances.dtype)
        torch.testing.assert_close(distances[b, q], want, rtol=max(2 * torch.finfo(want.dtype).eps, 1e-14), atol=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spread_queries(batch, height, width, patch_size):
    """All corners of the allowed range, and two centres inside."""
    first, last = patch_size // 2, (height - patch_size + patch_size // 2, width - patch_size + patch_size // 2)
    corners = list(itertools.product((first, last[0]), (first, last[1])))
    centres = random_centres(batch, 2, (height, width), patch_size, generator=seeded(5))
    return torch.cat([torch.tensor([corners] * batch), centres], 1)


def image_makers(channels=3, height=26, width=33, batch=2):
    """What makes each image, by its name."""
    shape = (batch, channels, height, width)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    tiles = (1, 1, -(-height // 4), -(-width // 6))
    images = {
        "random": lambda: torch.rand(shape, generator=seeded()),
        "normal": lambda: torch.randn(shape, generator=seeded()),
        "constant": lambda: torch.full(shape, 0.3),
        "checkerboard": lambda: ((rows // 2 + columns // 2) % 2).float().expand(shape) * 0.7,
        "stripes": lambda: (columns % 5 / 7).expand(shape),
        "tiles": lambda: torch.rand(batch, channels, 4, 6, generator=seeded()).repeat(tiles)[..., :height, :width],
        "8-bit": lambda: torch.randint(0, 256, shape, generator=seeded()) / 255,
        # Differences are exact here, so that equal sums of unequal terms (4 x 1 and 2 x 2) are ties. With / 255 they
        # would be equal up to a few roundoffs of float64, which the loop and the search may see differently.
        "4 levels": lambda: torch.randint(0, 4, shape, generator=seeded()) / 4,
        "0 to 255": lambda: torch.randint(0, 256, shape, generator=seeded()).float(),
        "8-bit tiles": lambda: (
            torch.randint(0, 256, (batch, channels, 4, 6), generator=seeded()).repeat(tiles)[..., :height, :width] / 255
        ),
        # A flat half next to noise: queries there have no texture of their own.
        "half flat": lambda: torch.where(columns < width // 2, torch.tensor(0.9), images["random"]()),
        # Details far below the level of the values, where |c|^2 - 2 c.q + |q|^2 in float32 would be noise only.
        "high level": lambda: 1e4 + torch.randint(0, 3, shape, generator=seeded()) / 64,
    }
    return images


def make_image(name, **sizes):
    return image_makers(**sizes)[name]()


NAMES = list(image_makers())


@pytest.mark.parametrize("include_query", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_finds_what_the_loop_finds(name, dtype, include_query):
    features = make_image(name).to(dtype)
    queries = spread_queries(2, 26, 33, 6)
    assert_same_as_loop(features, queries, 6, 14, 20, include_query)


@pytest.mark.parametrize(
    ("patch_size", "search_size"), [(1, 5), (1, 1), (5, 9), (6, 9), (5, 10), (7, 3), (8, 100), (3, 26), (26, 40)]
)
@pytest.mark.parametrize("name", ["random", "tiles", "8-bit tiles"])
def test_sizes_and_all_candidates(name, patch_size, search_size):
    features = make_image(name, channels=2)
    for query in spread_queries(2, 26, 33, patch_size).unbind(1):
        count = min(loop_search(features[b], query[b].tolist(), patch_size, search_size, 1)[1] for b in range(2))
        assert_same_as_loop(features, query[:, None], patch_size, search_size, count)
        if count > 1:
            assert_same_as_loop(features, query[:, None], patch_size, search_size, count - 1, include_query=False)


@pytest.mark.parametrize("size", [(16, 40), (40, 16), (18, 17)])
def test_image_smaller_than_the_window(size):
    features = make_image("8-bit", channels=1, height=size[0], width=size[1])
    assert_same_as_loop(features, spread_queries(2, *size, 16), 16, 40, 1)


def test_a_tiny_difference_is_no_tie():
    features = make_image("8-bit tiles", height=28, width=36, batch=1)
    features[0, 1, 3, 7] = torch.nextafter(features[0, 1, 3, 7], torch.tensor(2.0))
    queries = torch.tensor([[[12, 15]]])
    # 15 candidates have the query's phase. The one in the upper left, (4, 9), covers the pixel that was changed.
    centres, distances = nonlocal_neighbours(features, queries, patch_size=8, search_size=22, k=15)
    assert not distances[0, 0, :14].any()
    assert 0 < distances[0, 0, 14] < 1e-13
    assert centres[0, 0, 14].tolist() == [4, 9]
    assert_same_as_loop(features, queries, 8, 22, 16)


@pytest.mark.parametrize("name", ["random", "tiles", "half flat"])
def test_small_blocks_change_nothing(name, monkeypatch):
    features, queries = make_image(name, channels=3), spread_queries(2, 26, 33, 6)
    want = nonlocal_neighbours(features, queries, patch_size=6, search_size=14, k=20)
    monkeypatch.setattr(patch_search, "_BLOCK_BYTES_CPU", 1)  # a query, a channel and a pair at a time
    monkeypatch.setattr(patch_search, "_BLOCK_BYTES", 1)
    got = nonlocal_neighbours(features, queries, patch_size=6, search_size=14, k=20)
    assert torch.equal(got[0], want[0])
    torch.testing.assert_close(got[1], want[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_are_computed_in_float32(dtype):
    features, queries = make_image("random").to(dtype), spread_queries(2, 26, 33, 6)
    want = nonlocal_neighbours(features.float(), queries, patch_size=6, search_size=14)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given in (features, features.float()):
            got = nonlocal_neighbours(given, queries.int(), patch_size=6, search_size=14)
            assert got[1].dtype == torch.float32
            assert torch.equal(got[0], want[0])
            assert torch.equal(got[1], want[1])


@pytest.mark.parametrize("view", ["transposed", "strided", "channels last", "expanded"])
def test_non_contiguous_input(view):
    features = {
        "transposed": lambda: make_image("8-bit", height=33, width=26).transpose(2, 3),
        "strided": lambda: make_image("8-bit", height=52, width=66)[:, :, ::2, 1::2],
        "channels last": lambda: make_image("8-bit").contiguous(memory_format=torch.channels_last),
        "expanded": lambda: make_image("8-bit", batch=1).expand(2, -1, -1, -1),
    }[view]()
    queries = spread_queries(2, 26, 33, 6).transpose(0, 1).contiguous().transpose(0, 1)
    assert not (features.is_contiguous() and queries.is_contiguous())
    assert_same_as_loop(features, queries, 6, 9, 7)


def test_no_gradient_and_input_unchanged():
    features, queries = make_image("random").requires_grad_(), spread_queries(2, 26, 33, 6)
    features_before, queries_before = features.detach().clone(), queries.clone()
    _, distances = nonlocal_neighbours(features, queries, patch_size=6, search_size=9)
    assert not distances.requires_grad
    assert torch.is_grad_enabled()
    assert torch.equal(features, features_before)
    assert torch.equal(queries, queries_before)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu(name):
    features, queries = make_image(name), spread_queries(2, 26, 33, 6)
    got = nonlocal_neighbours(features.cuda(), queries.cuda(), patch_size=6, search_size=14, k=20)
    want = nonlocal_neighbours(features, queries, patch_size=6, search_size=14, k=20)
    assert got[0].is_cuda
    assert torch.equal(got[0].cpu(), want[0])
    torch.testing.assert_close(got[1].cpu(), want[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("centre", [(2, 10), (10, 2), (24, 10), (10, 31), (-1, 10), (10, 100)])
def test_query_whose_patch_leaves_the_image(centre):
    queries = torch.tensor([[[3, 3], [23, 30]], [[10, 10], centre]])
    where = rf"query 1 of image 1 at \(row, column\) \({centre[0]}, {centre[1]}\) leaves the image"
    with pytest.raises(ValueError, match=where + r": rows must be 3 to 23 and columns 3 to 30 "):
        nonlocal_neighbours(make_image("random"), queries, patch_size=6, search_size=9, k=1)


def test_k_above_the_number_of_candidates():
    features, sizes = make_image("random"), {"patch_size": 6, "search_size": 10}
    queries = torch.tensor([[[13, 16], [13, 16]], [[13, 16], [3, 30]]])  # the last one has 5 x 6 candidates
    nonlocal_neighbours(features, queries, k=30, **sizes)
    with pytest.raises(ValueError, match=r"k = 31 is above the 30 candidates of the query at .*\(3, 30\)"):
        nonlocal_neighbours(features, queries, k=31, **sizes)
    with pytest.raises(ValueError, match="k = 30 is above the 29 candidates"):
        nonlocal_neighbours(features, queries, k=30, include_query=False, **sizes)
    with pytest.raises(ValueError, match="k = 101 is above the 100 candidates"):
        nonlocal_neighbours(features[:1], queries[:1], k=101, **sizes)
    with pytest.raises(ValueError, match="k = 1 is above the 0 candidates"):
        nonlocal_neighbours(features, queries, k=1, patch_size=6, search_size=1, include_query=False)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_non_finite_features(value, dtype):
    features = make_image("random").to(dtype)
    features[1, 2, 25, 32] = value
    with pytest.raises(ValueError, match="features must be finite, got NaN or infinity"):
        nonlocal_neighbours(features, torch.tensor([[[8, 8]]] * 2), patch_size=6, search_size=9)


def test_features_too_large_to_square():
    queries = torch.tensor([[[8, 8]]] * 2)
    with pytest.raises(ValueError, match=r"features must be finite, got values beyond ±"):
        nonlocal_neighbours(make_image("random") * 1e30, queries, patch_size=6, search_size=9)
    assert_same_as_loop((make_image("random") - 0.5) * 1e15, queries, 6, 9, 8)
    assert_same_as_loop((make_image("random") - 0.5) * 1e-15, queries, 6, 9, 8)


@pytest.mark.parametrize(
    ("features", "queries", "error", "message"),
    [
        ("image", [[[8, 8]]], TypeError, "features must be a tensor, got str"),
        (torch.zeros(1, 3, 20, 20), [[[8, 8]]], TypeError, "queries must be a tensor, got list"),
        (torch.zeros(1, 3, 20, 20, dtype=torch.uint8), torch.tensor([[[8, 8]]]), TypeError, "floating.*got.*uint8"),
        (torch.zeros(1, 3, 20, 20), torch.tensor([[[8.0, 8.0]]]), TypeError, "queries must be integer.*got.*float32"),
        (torch.zeros(1, 3, 20, 20), torch.ones(1, 1, 2).bool(), TypeError, "queries must be integer.*got.*bool"),
        (torch.zeros(3, 20, 20), torch.tensor([[[8, 8]]]), ValueError, r"\(B, C, H, W\).*got shape \(3, 20, 20\)"),
        (torch.zeros(1, 0, 20, 20), torch.tensor([[[8, 8]]]), ValueError, r"got shape \(1, 0, 20, 20\)"),
        (torch.zeros(1, 3, 20, 20), torch.tensor([[8, 8]]), ValueError, r"\(B, Q, 2\) with B = 1.*got \(1, 2\)"),
        (torch.zeros(2, 3, 20, 20), torch.tensor([[[8, 8]]]), ValueError, r"with B = 2.*got \(1, 1, 2\)"),
        (torch.zeros(1, 3, 20, 20), torch.tensor([[[8, 8, 8]]]), ValueError, r"got \(1, 1, 3\)"),
        (torch.zeros(1, 3, 15, 20), torch.tensor([[[8, 8]]]), ValueError, "15 x 20 pixels are smaller than .* 16"),
    ],
)
def test_wrong_tensors(features, queries, error, message):
    with pytest.raises(error, match=message):
        nonlocal_neighbours(features, queries)


@pytest.mark.parametrize("name", ["patch_size", "search_size", "k"])
def test_wrong_numbers(name):
    features, queries = make_image("random"), torch.tensor([[[8, 8]]] * 2)
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        nonlocal_neighbours(features, queries, **{name: 0})
    with pytest.raises(TypeError, match=f"{name} must be an integer, got 2.0"):
        nonlocal_neighbours(features, queries, **{name: 2.0})
