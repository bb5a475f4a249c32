import numpy as np
import pytest

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.data.rain_renderer import blend, render_rain
from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics.classical_filters import (
    FILTERS,
    best_filter,
    filter_scores,
    opening,
    remove_streaks,
)
from nlcl_plugin.metrics.quality import psnr


def _naive_opening(image, kernel):
    """Minimum, then maximum, over the kernel's places; places outside of the image do not count."""
    radius_y, radius_x = kernel.shape[0] // 2, kernel.shape[1] // 2
    for choose in (min, max):
        out = image.copy()
        height, width, channels = image.shape
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    values = []
                    for j, i in zip(*np.nonzero(kernel), strict=True):
                        v, u = y + j - radius_y, x + i - radius_x
                        if 0 <= v < height and 0 <= u < width:
                            values.append(image[v, u, c])
                    out[y, x, c] = choose(values)
        image = out
    return image


def _image(seed=0, size=(20, 24)):
    """Smooth ground with a few edges."""
    rng = np.random.default_rng(seed)
    ground = np.linspace(0.2, 0.6, size[1])[None, :, None] * np.linspace(0.7, 1.0, size[0])[:, None, None]
    image = np.repeat(ground, 3, axis=2) * rng.uniform(0.6, 1.0, 3)
    image[size[0] // 2 :, : size[1] // 2] *= 0.5
    return image.astype(np.float32)


@pytest.fixture(scope="module")
def pairs():
    cleans = [_image(seed, (64, 64)) for seed in range(3)]
    return [(blend(clean, render_rain((64, 64), np.random.default_rng(i))), clean) for i, clean in enumerate(cleans)]


@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_shape_type_and_range_and_leave_the_input_alone(name):
    image = np.random.default_rng(0).random((17, 23, 3), np.float32)
    before = image.copy()
    result = FILTERS[name](image)
    assert result.shape == image.shape
    assert result.dtype == np.float32
    assert result.min() >= 0
    assert result.max() <= 1
    assert result is not image
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", [name for name in FILTERS if "minus" not in name])
def test_filters_keep_a_constant_image(name):
    image = np.full((16, 18, 3), 0.4, np.float32)
    np.testing.assert_allclose(FILTERS[name](image), image, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FILTERS if name.startswith(("opening", "streaks", "minus"))])
def test_rain_only_adds_light_so_these_never_brighten(name):
    image = np.random.default_rng(1).random((16, 18, 3), np.float32)
    assert (FILTERS[name](image) <= image).all()


def test_filters_accept_flipped_views():
    image = np.random.default_rng(0).random((12, 14, 3), np.float32)
    for function in FILTERS.values():
        np.testing.assert_array_equal(function(image[:, ::-1, ::-1]), function(image[:, ::-1, ::-1].copy()))


@pytest.mark.parametrize("width", [3, 5, 9])
def test_opening_equals_the_naive_loop(width):
    image = np.random.default_rng(width).random((7, 11, 3), np.float32)
    np.testing.assert_array_equal(opening(image, width), _naive_opening(image, np.ones((1, width))))
    expected = np.maximum(_naive_opening(image, np.ones((1, width))) - np.float32(0.1), 0)
    np.testing.assert_allclose(opening(image, width, minus=0.1), expected, atol=1e-7)


def test_remove_streaks_equals_the_naive_loop():
    image = np.random.default_rng(0).random((8, 9, 3), np.float32)
    hat = image - _naive_opening(image, np.ones((1, 5)))
    lines = [np.eye(3), np.fliplr(np.eye(3)), np.outer(np.ones(3), [0, 1, 0])]
    rain = np.max([_naive_opening(hat, line) for line in lines], axis=0)
    np.testing.assert_allclose(remove_streaks(image, 5, length=3), image - rain, atol=1e-6)


def test_remove_streaks_takes_streaks_and_leaves_specks():
    image = np.full((15, 15, 3), 0.2, np.float32)
    image[2:11, 4] = 0.8  # a streak
    for step in range(8):
        image[4 + step, 6 + step] = 0.7  # a slanted one
    image[13, 2] = 0.9  # a speck
    result = remove_streaks(image, 3)
    assert result[13, 2, 0] == pytest.approx(0.9)
    result[13, 2] = 0.2
    np.testing.assert_allclose(result, 0.2, atol=1e-6)


def test_filters_are_compared_in_eight_bit():
    image = np.full((4, 4, 3), 100 / 255)
    for other, expected in ((image + 0.4 / 255, 100), (image + 1 / 255, 20 * np.log10(255))):
        assert filter_scores([(other, image)])["none"] == pytest.approx(expected)


def test_best_filter_is_the_best_of_the_scores_and_never_worse_than_the_rain(pairs):
    name, value = best_filter(iter(pairs))
    scores = filter_scores(pairs)
    assert list(scores) == list(FILTERS)
    assert value == scores[name] == max(scores.values())
    assert scores[name] == pytest.approx(np.mean([psnr(to_uint8(FILTERS[name](o)), to_uint8(b)) for o, b in pairs]))
    assert scores["none"] == pytest.approx(np.mean([psnr(to_uint8(o), to_uint8(b)) for o, b in pairs]))


def test_rendered_rain_on_smooth_ground_is_beaten_by_opening_by_far(pairs):
    name, value = best_filter(pairs)
    assert name.startswith(("opening", "streaks"))
    assert value > filter_scores(pairs)["none"] + 5


def test_best_filter_on_clean_images_is_none():
    noise = np.random.default_rng(0).random((16, 16, 3), np.float32)
    assert best_filter([(noise, noise)]) == ("none", 100.0)


def test_errors_say_what_is_wrong():
    image = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(InputError, match="no pairs"):
        best_filter([])
    with pytest.raises(InputError, match=r"pair 2: rainy image is \(4, 4, 3\) and clean image is \(4, 5, 3\)"):
        best_filter([(image, image), (image, np.zeros((4, 5, 3), np.float32))])
    with pytest.raises(InputError, match=r"expected RGB \(H, W, 3\)"):
        opening(image[..., 0], 3)
