import itertools

import pytest
import torch

from nlcl_plugin.ops import gather_at, random_centres


def loop_gather(features, centres, image_size):
    rows = []
    for b, n in itertools.product(*(range(size) for size in centres.shape[:2])):
        index = []
        for axis in range(2):
            size = features.shape[2 + axis]
            index.append(min(max(int(centres[b, n, axis]) * size // image_size[axis], 0), size - 1))
        rows.append(features[b, :, index[0], index[1]])
    return torch.stack(rows).view(*centres.shape[:2], -1)


@pytest.mark.parametrize("tap", [(20, 36), (10, 18), (7, 5), (1, 1), (40, 72), (3, 50)])
def test_gather_at_is_the_loop(tap):
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 5, *tap, generator=generator)
    centres = torch.tensor(list(itertools.product(range(20), range(0, 36, 5)))).repeat(2, 1, 1)
    centres[1] = centres[1].flip(0)
    centres[1, :4] = torch.tensor([[-1, -7], [20, 36], [100, 0], [-3, 100]])  # outside: the nearest
    found = gather_at(features, centres, (20, 36))
    assert found.shape == (2, 160, 5)
    assert torch.equal(found, loop_gather(features, centres, (20, 36)))


def test_gather_at_gradient():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 3, 4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    centres = torch.tensor([[[0, 0], [7, 9], [7, 9], [3, 2]], [[1, 1], [0, 0], [5, 4], [4, 4]]])  # some twice
    assert torch.autograd.gradcheck(lambda x: gather_at(x, centres, (8, 10)), (features,))
    weight = torch.rand(2, 4, 3, dtype=torch.float64, generator=generator)
    (found,) = torch.autograd.grad((gather_at(features, centres, (8, 10)) * weight).sum(), features)
    (want,) = torch.autograd.grad((loop_gather(features, centres, (8, 10)) * weight).sum(), features)
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_gather_at_keeps_the_dtype_and_takes_any_layout(dtype):
    features = torch.rand(2, 3, 8, 6).to(dtype).to(memory_format=torch.channels_last)
    centres = torch.tensor([[[0, 0]], [[15, 11]]], dtype=torch.int32)
    found = gather_at(features, centres, (16, 12))
    assert found.dtype == dtype
    assert torch.equal(found[:, 0], torch.stack([features[0, :, 0, 0], features[1, :, 7, 5]]))


@pytest.mark.parametrize(
    ("features", "centres", "error", "message"),
    [
        (torch.zeros(3, 4, 4), torch.zeros(1, 2, 2).long(), ValueError, r"\(B, C, h, w\).*received \(3, 4, 4\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(2, 2).long(), ValueError, r"\(B, N, 2\), .* and \(2, 2\)"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(1, 5, 2).long(), ValueError, r"\(B, N, 2\), .* and \(1, 5, 2\)"),
        (torch.zeros(1, 3, 4, 4), torch.zeros(1, 5, 2), TypeError, "centres must be integer.*float32"),
    ],
)
def test_gather_at_wrong_arguments(features, centres, error, message):
    with pytest.raises(error, match=message):
        gather_at(features, centres, (4, 4))


@pytest.mark.parametrize("patch_size", [1, 4, 5])
def test_random_centres_cover_the_allowed_range(patch_size):
    centres = random_centres(3, 2000, (9, 12), patch_size, generator=torch.Generator().manual_seed(0))
    assert centres.shape == (3, 2000, 2)
    assert centres.dtype == torch.int64
    start = centres - patch_size // 2
    for axis, size in enumerate((9, 12)):
        values, counts = start[..., axis].unique(return_counts=True)
        assert values.tolist() == list(range(size - patch_size + 1))
        assert counts.min() > 0.8 * counts.float().mean()
        assert counts.max() < 1.2 * counts.float().mean()


def test_random_centres_follow_the_generator():
    first = random_centres(2, 5, (64, 48), 16, generator=torch.Generator().manual_seed(3))
    assert torch.equal(first, random_centres(2, 5, (64, 48), 16, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(first, random_centres(2, 5, (64, 48), 16, generator=torch.Generator().manual_seed(4)))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        first = random_centres(2, 5, (64, 48), 16)
        torch.manual_seed(7)
        assert torch.equal(first, random_centres(2, 5, (64, 48), 16))


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(ValueError, match="image of 15 x 40 pixels is smaller than the patch_size 16"):
        random_centres(1, 1, (15, 40), 16)
