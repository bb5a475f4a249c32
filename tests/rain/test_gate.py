"""The gate: of an extracted layer, only what looks like rain passes."""

import math

import cv2
import numpy as np
import pytest
import torch

from nlcl_plugin.rain.gate import ANGLES, LONGEST, SHORTEST, _line, _opened, keep_streaks


def layer(*lines, size=96, angle=10.0, length=24.0):
    """Streaks of brightness 0.3 from places (row, column), two to three pixels wide."""
    canvas = np.zeros((size, size), np.float32)
    down, right = length * math.cos(math.radians(angle)), length * math.sin(math.radians(angle))
    for row, column in lines:
        cv2.line(canvas, (column, row), (round(column + right), round(row + down)), 0.3, thickness=2)
    return torch.from_numpy(canvas)[None, None]


STREAKS = [(5, 10), (20, 30), (8, 50), (40, 20), (60, 70), (55, 45), (12, 75), (35, 60)]


@pytest.mark.parametrize("angle", [-40, 0, 10, 40])
def test_streaks_along_one_steep_direction_pass_as_they_are(angle):
    rain = layer(*[(row, min(max(column, 25), 65)) for row, column in STREAKS], angle=angle)
    kept = keep_streaks(rain)
    assert kept.passed.tolist() == [True]
    assert float(kept.rain.sum()) > 0.9 * float(rain.sum())
    assert (kept.rain <= rain + 1e-6).all()


@pytest.mark.parametrize(
    "added",
    [
        layer((88, 15), angle=90, length=20),  # a gutter
        layer((2, 85), angle=0, length=92),  # a pole
        layer((90, 3), length=3),  # a speck
        torch.from_numpy(cv2.circle(np.zeros((96, 96), np.float32), (82, 50), 8, 0.3, -1))[None, None],  # a lamp
    ],
)
def test_what_is_no_streak_is_taken_out_and_the_streaks_beside_it_stay(added):
    rain = layer(*STREAKS)
    kept = keep_streaks(torch.maximum(rain, added))
    alone = added * (rain == 0)
    assert kept.passed.all()
    assert float(kept.rain[alone > 0].mean()) < 0.05
    assert float(kept.rain[rain > 0].mean()) > 0.8 * 0.3


def test_layers_without_one_steep_direction_do_not_pass():
    nearly_horizontal = layer(*STREAKS, angle=75)
    texture = 0.1 * torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(1, 1, 96, 96)
    kept = keep_streaks(torch.cat((nearly_horizontal, texture, nothing, -layer(*STREAKS))))
    assert not kept.passed.any()
    assert not kept.rain.any()


def test_coloured_layers_pass_with_what_all_channels_share_and_each_image_is_judged_by_itself():
    red = torch.cat((layer(*STREAKS), torch.zeros(1, 2, 96, 96)), dim=1)
    grey = layer(*STREAKS).expand(-1, 3, -1, -1)
    both = keep_streaks(torch.cat((red, grey)))
    assert both.passed.tolist() == [False, True]
    assert torch.equal(both.rain[1], keep_streaks(layer(*STREAKS)).rain[0])


@pytest.mark.parametrize("length", [SHORTEST, LONGEST])
@pytest.mark.parametrize("angle", [ANGLES[0], 0, 30])
def test_openings_are_those_of_opencv(angle, length):
    images = torch.rand(2, 1, 60, 70, generator=torch.Generator().manual_seed(1))
    reach = length // 2 + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    for row, column in _line(angle, length):
        kernel[reach + row, reach + column] = 1
    expected = [cv2.morphologyEx(image[0].numpy(), cv2.MORPH_OPEN, kernel) for image in images]
    np.testing.assert_array_equal(_opened(images, _line(angle, length))[:, 0].numpy(), np.stack(expected))
