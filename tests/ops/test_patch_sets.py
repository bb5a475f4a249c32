import numpy as np
import pytest
import torch

from nlcl_plugin.ops.patch_sets import gather_patches, patch_deviation, textured_centres


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def loop_deviation(image, patch_size):
    """Of one image (C, H, W), patch by patch."""
    image = image.double().numpy()
    rows, columns = (size - patch_size + 1 for size in image.shape[1:])
    found = np.empty((rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = image[:, i : i + patch_size, j : j + patch_size].reshape(len(image), -1)
            found[i, j] = np.sqrt(patch.var(1).mean())
    return found


@pytest.mark.parametrize(("patch_size", "offset"), [(1, 0), (2, 100), (5, 0), (9, 100)])
def test_deviation_is_that_of_the_loop(patch_size, offset):
    images = torch.rand(2, 3, 9, 14, generator=seeded()) + offset
    images[1, :, 2:8, 3:10] = offset + 0.5  # flat within
    found = patch_deviation(images, patch_size)
    for image, values in zip(images, found, strict=True):
        np.testing.assert_allclose(values, loop_deviation(image, patch_size), atol=1e-6)


@pytest.mark.parametrize("patch_size", [4, 5])
def test_centres_are_different_and_allowed(patch_size):
    allowed = torch.rand(12, 17, generator=seeded()) < 0.3
    places = {(i, j) for i, j in allowed.nonzero().tolist()}
    for num in (5, len(places), len(places) + 10):
        centres = textured_centres(allowed, num, patch_size, generator=seeded(1)) - patch_size // 2
        drawn = [tuple(place) for place in centres.tolist()]
        assert len(drawn) == len(set(drawn)) == min(num, len(places))
        assert set(drawn) <= places
    assert textured_centres(torch.zeros(3, 3, dtype=torch.bool), 5, patch_size, generator=None).shape == (0, 2)


@pytest.mark.parametrize("patch_size", [1, 4, 5])
def test_patches_are_slices(patch_size):
    images = torch.rand(2, 3, 11, 13, generator=seeded())
    half = patch_size // 2
    low, high = half, 11 - patch_size + half
    centres = torch.tensor([[[low, low], [high, low]], [[high, 13 - patch_size + half], [low + 2, low + 1]]])
    found = gather_patches(images, centres, patch_size)
    for b in range(2):
        for n, (row, column) in enumerate((centres[b] - half).tolist()):
            patch = images[b, :, row : row + patch_size, column : column + patch_size]
            assert torch.equal(found[b, n], patch.flatten())
