import inspect
import math

import basicsr.metrics
import cv2
import numpy as np
import pytest

from nlcl_plugin.errors import InputError
from nlcl_plugin.metrics import psnr, ssim


def noisy_pair(*shape, noise=9, seed=0):
    draw = np.random.default_rng(seed)
    truth = draw.integers(0, 256, shape)
    image = (truth + draw.integers(-noise, noise + 1, shape)).clip(0, 255)
    return image.astype(np.uint8), truth.astype(np.uint8)


@pytest.mark.parametrize("shape", [(25, 31, 3), (19, 40, 3), (20, 23), (21, 20, 1)])
@pytest.mark.parametrize("crop_border", [0, 4])
@pytest.mark.parametrize("y_channel", [False, True])
def test_figures_are_those_of_stock_basicsr(shape, crop_border, y_channel):
    image, truth = noisy_pair(*shape)
    for ours, name in ((psnr, "calculate_psnr"), (ssim, "calculate_ssim")):
        named = getattr(basicsr.metrics, name)  # as option files name it
        expected = inspect.unwrap(named)(image, truth, crop_border=crop_border, test_y_channel=y_channel)
        options = {"type": name, "crop_border": crop_border, "test_y_channel": y_channel, "better": "higher"}
        found = basicsr.metrics.calculate_metric({"img": image, "img2": truth}, options)
        assert found == pytest.approx(expected, abs=1e-5)
        assert named(image, truth, crop_border, test_y_channel=y_channel) == found
        rgb = (image[..., ::-1], truth[..., ::-1]) if len(shape) == 3 else (image, truth)
        assert ours(*rgb, crop_border, y_channel) == found


def test_metrics_named_in_option_files_take_channels_first():
    image, truth = noisy_pair(14, 20, 3)
    turned = (image.transpose(2, 0, 1), truth.transpose(2, 0, 1))
    for name in ("calculate_psnr", "calculate_ssim"):
        function = getattr(basicsr.metrics, name)
        expected = function(image, truth, crop_border=0, test_y_channel=True)
        assert function(*turned, crop_border=0, input_order="CHW", test_y_channel=True) == pytest.approx(expected)


def slow_ssim(first, second, size):
    """SSIM of one channel, window by window."""
    kernel = cv2.getGaussianKernel(size, 1.5)
    weights, c1, c2 = kernel @ kernel.T, 2.55**2, 7.65**2
    figures = []
    for y in range(first.shape[0] - size + 1):
        for x in range(first.shape[1] - size + 1):
            a, b = (image[y : y + size, x : x + size].astype(float) for image in (first, second))
            mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
            a, b = a - mean_a, b - mean_b
            structure = (2 * (weights * a * b).sum() + c2) / ((weights * (a * a + b * b)).sum() + c2)
            figures.append((2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1) * structure)
    return np.mean(figures)


@pytest.mark.parametrize(("height", "size"), [(12, 11), (11, 11), (10, 9), (8, 7), (3, 3), (2, 1), (1, 1)])
def test_small_images_have_the_largest_window_that_fits(height, size):
    image, truth = noisy_pair(height, 14, noise=60)
    assert ssim(image, truth) == pytest.approx(slow_ssim(image, truth, size), abs=1e-9)
    assert ssim(truth, truth) == pytest.approx(1)


def test_no_image_is_better_than_an_equal_one():
    truth = noisy_pair(300, 300, 3)[1]
    image = truth.copy()
    image[7, 7, 1] ^= 1
    assert inspect.unwrap(basicsr.metrics.calculate_psnr)(image, truth, crop_border=0) > 100
    assert psnr(image, truth) == psnr(truth, truth) == 100


def test_a_border_that_leaves_nothing_leaves_no_figure():
    image, truth = noisy_pair(8, 20, 3)
    assert all(math.isnan(measure(image, truth, border)) for measure in (psnr, ssim) for border in (4, 5, 9))


@pytest.mark.parametrize("measure", [psnr, ssim])
def test_images_of_other_sizes_are_refused(measure):
    with pytest.raises(InputError, match=r"the image is \(4, 5, 3\) and its ground truth \(5, 4, 3\)"):
        measure(np.zeros((4, 5, 3)), np.zeros((5, 4, 3)))
