"""Rain that an image's own non-local neighbours confirm."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from derain_helpers import save_network

from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference import confirm
from nlcl_plugin.inference.confirm import confirm_rain
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.inference.export import export


def reference(rainy, rain, strength):
    """Pixel by pixel, as the module says it."""
    colours, grey, light = rainy[0].numpy(), rainy[0].mean(0).numpy(), rain[0].mean(0).numpy()
    height, width = grey.shape
    bright = light > confirm.SUSPECT
    suspect = np.zeros_like(bright)
    for y, x in np.argwhere(bright):
        suspect[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] = True
    half, factor = confirm.PATCH // 2, np.ones((height, width))
    steps = range(-confirm.REACH, confirm.REACH + 1, confirm.STEP)
    for y, x in np.argwhere(suspect):
        found = []
        for down in steps:
            for right in steps:
                there_y, there_x = y + down, x + right
                inside = 0 <= there_y < height and 0 <= there_x < width
                if np.hypot(down, right) < confirm.NEAREST or not inside or suspect[there_y, there_x]:
                    continue
                total, count = 0.0, 0
                for row in range(y - half, y + half + 1):
                    for column in range(x - half, x + half + 1):
                        moved = row + down, column + right
                        both = [(row, column), moved]
                        if all(0 <= a < height and 0 <= b < width and not suspect[a, b] for a, b in both):
                            total += float(((colours[:, row, column] - colours[:, moved[0], moved[1]]) ** 2).sum())
                            count += 1
                if count >= confirm.LEAST * confirm.PATCH**2:
                    found.append((total / count, grey[there_y, there_x]))
        if not found:
            factor[y, x] = 0
            continue
        values = [value for _, value in sorted(found)[: confirm.NEIGHBOURS]]
        behind = sorted(values)[(len(values) - 1) // 2]  # the lower median, as torch's
        factor[y, x] = np.clip((grey[y, x] - behind) / max(strength * light[y, x], 1e-4), 0, 1)
    return strength * rain * torch.from_numpy(factor).float()


@pytest.fixture
def small(monkeypatch):
    for name, value in (("PATCH", 5), ("REACH", 6), ("STEP", 2), ("NEAREST", 3), ("NEIGHBOURS", 4)):
        monkeypatch.setattr(confirm, name, value)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [1.0, 1.5])
def test_each_pixel_is_compared_as_described(small, channels, strength):
    generator = torch.Generator().manual_seed(channels)
    rainy = torch.rand(1, 3, 18, 23, generator=generator)
    rain = torch.rand(1, channels, 18, 23, generator=generator) * (torch.rand(1, 1, 18, 23, generator=generator) < 0.04)
    expected = reference(rainy, rain, strength)
    assert 0 < float((expected == 0).float().mean()) < 1
    torch.testing.assert_close(confirm_rain(rainy, rain, strength), expected, atol=1e-4, rtol=1e-4)


def test_tiles_and_batches_change_nothing(monkeypatch):
    rainy = torch.rand(2, 3, 150, 130, generator=torch.Generator().manual_seed(0))
    rain = 0.3 * (torch.rand(2, 1, 150, 130, generator=torch.Generator().manual_seed(1)) < 0.02)
    whole = confirm_rain(rainy, rain)
    monkeypatch.setattr(confirm, "TILE", 90)
    tiled = torch.cat([confirm_rain(rainy[place : place + 1], rain[place : place + 1]) for place in (0, 1)])
    torch.testing.assert_close(tiled, whole, atol=1e-4, rtol=1e-4)


def test_a_streak_is_confirmed_and_the_bars_of_a_grid_are_not():
    """Both are as bright, as wide and as long to the network; bars repeat where it does not suspect them."""
    image = torch.full((1, 3, 120, 120), 0.3)
    image[..., 12:66:9] = 0.6  # bars
    image[..., 40:70, 90:92] += 0.3  # a streak
    rain = torch.zeros(1, 1, 120, 120)
    rain[..., 45:65, 30] = rain[..., 40:70, 90:92] = 0.3  # it takes the middle of one bar too
    kept = confirm_rain(image, rain)
    assert float(kept[..., 40:70, 90:92].mean()) > 0.29
    assert float(kept[..., 45:65, 30].mean()) < 0.05


def test_nothing_is_taken_where_nearly_all_is_suspect_and_nothing_is_added_anywhere():
    image = torch.rand(1, 3, 100, 100, generator=torch.Generator().manual_seed(3))
    everywhere = torch.full((1, 1, 100, 100), 0.1)
    assert not confirm_rain(image, everywhere).any()
    faint = torch.full((1, 1, 100, 100), 0.5 * confirm.SUSPECT)
    assert torch.equal(confirm_rain(image, faint, 1.5), 1.5 * faint)


def test_a_derainer_confirms_at_the_size_of_its_copy_and_files_note_it(tmp_path):
    save_network(tmp_path / "net_s.pth", ResidualUNet(num_feat=4))
    image = torch.rand(1, 3, 80, 100)
    plain, confirmed = (load_derainer(tmp_path / "net_s.pth", confirm=wanted) for wanted in (None, True))
    torch.testing.assert_close(confirmed.rain(image), confirm_rain(image, plain.rain(image)))
    torch.testing.assert_close(confirmed(image), image - confirm_rain(image, plain.rain(image)))
    noted = replace(plain, about={**plain.about, "confirm": True, "strength": 1.25, "longest_side": 64})
    export(noted, tmp_path / "noted.safetensors", "safetensors")
    loaded = load_derainer(tmp_path / "noted.safetensors")
    assert (loaded.confirm, loaded.strength, loaded.longest_side) == (True, 1.25, 64)
    own = load_derainer(tmp_path / "noted.safetensors", confirm=False, strength=1.0, longest_side=0)
    assert torch.equal(own(image), plain(image))


@pytest.mark.parametrize(("key", "value"), [("confirm", 1), ("strength", "1"), ("strength", True), ("confirm", None)])
def test_a_damaged_note_is_refused(tmp_path, key, value):
    save_network(tmp_path / "net_s.pth", ResidualUNet(num_feat=4))
    content = torch.load(tmp_path / "net_s.pth")
    content["about"][key] = value
    torch.save(content, tmp_path / "net_s.pth")
    with pytest.raises(InputError, match="about` is damaged"):
        load_derainer(tmp_path / "net_s.pth")
