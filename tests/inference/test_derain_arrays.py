"""`nlcl_plugin.derain`: arrays and tensors in, the same kind out."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from derain_helpers import save_network

import nlcl_plugin
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.data.files import sha256
from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.metrics import psnr
from nlcl_plugin.networks.weights import PACKAGED, find_weights
from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.renderer import blend, render_rain

RNG = np.random.default_rng(0)
IMAGE = RNG.random((23, 31, 3), np.float32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "net_s.pth"
    return path, save_network(path, ResidualUNet(num_feat=4))


def expected(net, image):
    with torch.no_grad():
        return net(torch.from_numpy(image.transpose(2, 0, 1))[None])[0].clamp(0, 1)


@pytest.mark.parametrize(("dtype", "steps"), [(np.uint8, 255), (np.uint16, 65535)])
def test_integers_come_back_rounded_from_what_the_network_makes(network, dtype, steps):
    path, net = network
    image = np.rint(IMAGE * steps).astype(dtype)
    result = nlcl_plugin.derain(image, path)
    assert result.dtype == dtype
    exact = expected(net, image.astype(np.float32) / steps).permute(1, 2, 0).double().numpy() * steps
    assert np.abs(result - exact).max() <= 0.5 + 0.01  # float32 has 24 bits


def test_floats_and_tensors_come_back_as_they_came(network):
    path, net = network
    want = expected(net, IMAGE)
    tensor = torch.from_numpy(IMAGE.transpose(2, 0, 1).copy())
    for image in (IMAGE, tensor, tensor[None], tensor.double(), [IMAGE, IMAGE], (tensor, IMAGE)):
        result = nlcl_plugin.derain(image, path)
        assert type(result) is type(image)
        if isinstance(image, list | tuple):
            assert all(type(one) is type(other) for one, other in zip(image, result, strict=True))
            result, image = result[0], image[0]
        assert result.dtype == image.dtype
        assert result.shape == image.shape
        found = torch.from_numpy(result).permute(2, 0, 1) if isinstance(result, np.ndarray) else result
        torch.testing.assert_close(found.float().reshape(want.shape), want, rtol=0, atol=1e-6)


def test_weights_that_were_saved_again_are_loaded_again(tmp_path):
    path = tmp_path / "net_s.pth"
    save_network(path, ResidualUNet(num_feat=4))
    first = nlcl_plugin.derain(IMAGE, path)
    save_network(path, ResidualUNet(num_feat=4), seed=1)
    assert not np.array_equal(first, nlcl_plugin.derain(IMAGE, path))


def test_the_demo_weights_take_rendered_rain_out():
    clean = skimage.data.coffee()[:256, :384].astype(np.float32) / 255
    rainy = blend(clean, render_rain((256, 384), np.random.default_rng(3)))
    images = (rainy, nlcl_plugin.derain(rainy, "demo"), nlcl_plugin.derain(clean, "demo"))
    before, after, kept = (psnr(to_uint8(image), to_uint8(clean)) for image in images)
    assert after - before > 3
    assert kept > 30


def test_the_default_weights_take_rain_as_photographs_show_it_and_keep_clean_photographs():
    clean = 0.7 * skimage.data.coffee()[:256, :384].astype(np.float32) / 255
    gains = []
    for seed in range(8):
        rain = render_photographic_rain((256, 384), np.random.default_rng(seed))[..., None]
        rainy = np.clip(clean + rain * (0.85 - clean).clip(0), 0, 1)
        before, after = (psnr(to_uint8(image), to_uint8(clean)) for image in (rainy, nlcl_plugin.derain(rainy)))
        gains.append(after - before)
    assert np.mean(gains) > 1
    assert min(gains) > -0.3
    assert psnr(to_uint8(nlcl_plugin.derain(clean)), to_uint8(clean)) > 40


def test_the_model_card_has_the_checksums_of_the_weights():
    card = (Path(__file__).parents[2] / "docs" / "model_card.md").read_text()
    for name, file in PACKAGED.items():
        assert f"`{sha256(file)}`" in card, name
    assert load_derainer("real").longest_side == 640


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5)), r"but received the shape \(4, 5\)"),
        (np.zeros((4, 5, 3), np.int64), "but received int64"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), "but received torch.uint8"),
        (np.full((4, 5, 3), 128.0), "but received 128 to 128; divide by 255"),
        (np.full((4, 5, 3), np.nan), "but received nan to nan"),
        ("image.png", r"but received str; of an image file give np\.array"),
    ],
)
def test_what_is_no_image_is_refused(network, image, message):
    with pytest.raises(InputError, match=message):
        nlcl_plugin.derain(image, network[0])


def test_weights_of_the_package_go_by_their_names_unless_such_a_file_or_folder_exists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, file in PACKAGED.items():
        assert ImageDerainer(name).derainer.source == file
        assert find_weights(name) == file
    (tmp_path / "demo").mkdir()
    (tmp_path / "real").mkdir()  # photographs, say
    assert ImageDerainer().derainer.source == PACKAGED["real"]
    assert find_weights("demo") == Path("demo")
    with pytest.raises(InputError, match=r"^real2: no such file or folder; give .*, or .*demo"):
        ImageDerainer("real2")
