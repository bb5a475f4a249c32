import numpy as np
import pytest
from conftest import photograph

from nlcl_plugin.data import read_image
from nlcl_plugin.pictures import Cell, brightened, fit, grid, heat_map, save_montage


def test_pictures_fit_their_box_and_keep_their_proportions():
    image = photograph(60, 90)
    for box, size in (((30, None), (20, 30)), ((300, 30), (30, 45)), ((180, None), (120, 180))):
        assert fit(image, *box).shape == (*size, 3)
    assert fit(image, 400, enlarge=False) is image
    np.testing.assert_array_equal(fit(image, 180)[::2, ::2], image)  # enlarged pixel by pixel


def test_a_grid_has_its_pictures_where_columns_and_rows_are(tmp_path):
    first, second = photograph(20, 40, seed=1), photograph(30, 40, seed=2)
    drawn = grid([[Cell(first, "a caption"), Cell(second)], [Cell(second)]], 40, titles=["x", "y"], heading="all")
    assert drawn.shape == (44 + 30 + 22 + 30 + 22 + 6, 6 + 2 * 46, 3)
    np.testing.assert_array_equal(drawn[44:64, 6:46], first)
    np.testing.assert_array_equal(drawn[44:74, 52:92], second)
    np.testing.assert_array_equal(drawn[96:126, 6:46], second)
    assert (drawn[:22] < 128).any()  # the heading
    save_montage(str(tmp_path / "none.png"), [])
    save_montage(str(tmp_path / "one.png"), [{"x": fit(first, 400)}])
    np.testing.assert_allclose(read_image(tmp_path / "one.png")[22:222, 6:406] * 255, fit(first, 400), atol=1e-3)
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_heat_maps():
    rain = np.zeros((2, 2, 3), np.float32)
    rain[0] = 0.3
    assert (heat_map(rain)[0] == 255).all()
    assert (heat_map(rain)[1] == 0).all()


@pytest.mark.parametrize(("brightest", "factor"), [(1.0, 1), (0.3, 2), (0.01, 64), (0.0, 64)])
def test_faint_layers_are_made_brighter_by_one_power_of_two(brightest, factor):
    layer = np.linspace(-1, brightest, 5000, dtype=np.float32).reshape(50, 100, 1)
    (shown, dark), found = brightened([layer, np.zeros((3, 3, 3), np.float32)])
    assert found == factor
    assert not dark.any()
    np.testing.assert_allclose(shown[-1, -1], np.clip(brightest * factor, 0, 1) * 255, atol=1)
