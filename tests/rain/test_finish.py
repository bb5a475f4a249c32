import torch
from torchvision.io import decode_jpeg, encode_jpeg

from nlcl_plugin.rain.batch_random import BatchRandom
from nlcl_plugin.rain.finish import finish_pairs
from nlcl_plugin.rain.variation import RainVariation

OPTIONS = {"noise": 0.05, "sharpen": 1.0, "jpeg": 0.5}


def pairs(n=6):
    torch.manual_seed(0)
    clean = 0.3 + 0.2 * torch.rand(n, 3, 1, 1).expand(n, 3, 32, 24)
    return clean, clean + 0.3 * (torch.rand(n, 1, 32, 24) < 0.1)


def finish(clean, rainy, **options):
    random = BatchRandom(0, 1, range(len(clean)), len(clean))
    return finish_pairs(clean, rainy, RainVariation(**options), random)


def test_both_images_get_the_same_noise_of_a_strength_of_their_own():
    clean, rainy = pairs(200)
    noisy, wet = finish(clean, rainy, noise=0.05)
    torch.testing.assert_close(wet - noisy, rainy - clean)  # nothing clips here
    strengths = (noisy - clean).std(dim=(1, 2, 3))
    assert strengths.min() < 0.005
    assert 0.045 < strengths.max() < 0.055


def test_both_images_are_sharpened_or_blurred_by_the_same_unsharp_mask():
    clean, rainy = pairs(200)
    sharp, wet = finish(clean, rainy, sharpen=0.6)
    assert torch.allclose(sharp, clean, atol=1e-6)  # flat: nothing to sharpen
    kernel = torch.exp(-((torch.arange(5.0) - 2) ** 2) / 2)
    kernel = (kernel / kernel.sum()).outer(kernel / kernel.sum()).expand(3, 1, 5, 5)
    padded = torch.nn.functional.pad(rainy, (2, 2, 2, 2), mode="replicate")
    detail = rainy - torch.nn.functional.conv2d(padded, kernel, groups=3)
    inside = ((wet > 0) & (wet < 1) & (detail.abs() > 0.02)).float()  # what did not clip
    ratio = (wet - rainy) / torch.where(detail.abs() > 0.02, detail, torch.inf)
    amounts = (ratio * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))
    torch.testing.assert_close(ratio * inside, amounts[:, None, None, None] * inside, atol=1e-3, rtol=0)
    assert -0.3 < amounts.min() < -0.27
    assert 0.57 < amounts.max() < 0.6
    assert 0.25 < (amounts < 0).float().mean() < 0.42


def test_both_images_of_as_many_pairs_as_asked_for_are_compressed_alike():
    clean, rainy = pairs(200)
    kept, compressed = finish(clean, rainy, jpeg=0.3)
    changed = ~(compressed == rainy).flatten(1).all(dim=1)
    assert 0.2 < changed.float().mean() < 0.4
    place = int(changed.nonzero()[0])
    levels = (rainy[place] * 255).round().byte()
    qualities = [q for q in range(60, 99) if torch.equal(decode_jpeg(encode_jpeg(levels, q)) / 255, compressed[place])]
    assert qualities
    flat = (clean[place] * 255).round().byte()
    assert any(torch.equal(decode_jpeg(encode_jpeg(flat, q)) / 255, kept[place]) for q in qualities)


def test_an_image_gets_what_it_would_get_in_any_split_of_the_batch():
    clean, rainy = pairs()
    whole = finish(clean, rainy, **OPTIONS)
    half = finish_pairs(clean[1::2], rainy[1::2], RainVariation(**OPTIONS), BatchRandom(0, 1, [1, 3, 5], 6))
    for one, other in zip(whole, half, strict=True):
        assert torch.equal(one[1::2], other)
