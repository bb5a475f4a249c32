import numpy as np
import pytest
import torch

from nlcl_plugin.config.train_options import RestorerOptions
from nlcl_plugin.rain.batch_random import BatchRandom
from nlcl_plugin.rain.finish import finish_pairs
from nlcl_plugin.rain.photographic import render_photographic_rain
from nlcl_plugin.rain.pseudo_pairs import make_pseudo_rainy, replace_by_rendered, vary_rain
from nlcl_plugin.rain.renderer import render_rain
from nlcl_plugin.rain.structure import add_structure

PLAIN = {"start_iter": 0, "gain": (1.0, 1.0), "resize": (1.0, 1.0), "flip": False, "rain_free": 0.0, "threshold": 0.0}


def drawn(images, current_iter=1):
    return BatchRandom(0, current_iter, range(len(images)), len(images))


def layers(n=3, height=12, width=17):
    torch.manual_seed(0)
    return torch.rand(n, 3, height, width), 0.5 * torch.rand(n, 1, height, width)


def varied(**changes):
    return RestorerOptions(**{**PLAIN, **changes})


def test_without_variation_the_composite_is_the_blend_or_the_clean_image():
    clean, rain = layers()
    for changes, expected in (
        ({}, (clean + rain).clamp(0, 1)),
        ({"screen": 1.0}, clean + rain * (1 - clean)),
        ({"rain_free": 1.0}, clean),
    ):
        torch.testing.assert_close(make_pseudo_rainy(clean, rain, varied(**changes), drawn(clean)), expected)


def test_air_light_brightens_what_is_darker_and_nothing_else():
    clean = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3).expand(64, 3, 1, 3)
    rain = torch.full((64, 1, 1, 3), 0.5)
    rainy = make_pseudo_rainy(clean, rain, varied(air_light=1.0), drawn(clean))
    light = 2 * rainy[:, :, :, 0]  # of a black pixel: O = R A
    assert 0.6 <= light.min() < 0.65 < 0.95 < light.max() <= 1
    torch.testing.assert_close(rainy[..., 1], 0.5 + 0.5 * (light - 0.5))
    assert (rainy[..., 2] == 1).all()
    additive = make_pseudo_rainy(clean, rain, varied(air_light=0.3), drawn(clean))[:, 0, 0, 1] == 1
    assert 0.5 < additive.float().mean() < 0.9


def test_faint_and_negative_rain_is_dropped():
    clean = torch.zeros(1, 3, 1, 3)
    rain = torch.tensor([-0.5, 0.02, 0.3]).view(1, 1, 1, 3)
    rainy = make_pseudo_rainy(clean, rain, varied(threshold=0.03), drawn(clean))
    assert rainy[0, 0, 0].tolist() == pytest.approx([0, 0, 0.3])


@pytest.mark.parametrize("scale", [0.3, 0.7, 1.4, 2.0])
@pytest.mark.parametrize("size", [(12, 17), (1, 1), (2, 30)])
def test_resized_rain_keeps_its_size_and_range(scale, size):
    _, rain = layers(2, *size)
    result = vary_rain(rain, varied(resize=(scale, scale)), drawn(rain))
    assert result.shape == rain.shape
    assert result.min() >= 0
    assert result.max() <= rain.max() + 1e-6


def test_gain_and_flips_are_drawn_for_each_image():
    torch.manual_seed(0)
    rain = torch.rand(1, 1, 8, 8).expand(64, 1, 8, 8)
    result = vary_rain(rain, varied(gain=(0.5, 2.0), flip=True), drawn(rain))
    sums = result.sum(dim=(1, 2, 3)) / rain[0].sum()
    assert sums.min() < 0.7
    assert sums.max() > 1.6
    shapes = {tuple((v / v.max()).flatten().round(decimals=3).tolist()) for v in result}
    assert len(shapes) == 4  # no flip, either, both


def test_extra_layers_only_add_rain_of_other_images():
    clean, rain = torch.zeros(4, 3, 6, 6), torch.zeros(4, 1, 6, 6)
    for i in range(4):
        rain[i, :, i] = 0.1 * (i + 1)
    rainy = make_pseudo_rainy(clean, rain, varied(layers=3), drawn(clean))
    assert (rainy[:, :1] >= rain - 1e-6).all()
    assert (rainy.amax(dim=(1, 3)) > 0).sum() > 4


def test_rendered_rain_takes_the_places_of_as_many_layers_as_asked_for():
    rain = torch.full((200, 3, 24, 24), 0.01)
    replaced = replace_by_rendered(rain, varied(rendered=0.3), drawn(rain))
    changed = ~(replaced == rain).flatten(1).all(dim=1)
    assert abs(changed.float().mean() - 0.3) < 0.1  # 3 sigma
    assert (rain == 0.01).all()
    assert torch.equal(replaced[changed][:, :1].expand(-1, 3, -1, -1), replaced[changed])
    assert replaced.min() >= 0
    assert replaced[changed].amax(dim=(1, 2, 3)).median() > 0.2
    assert not torch.equal(*replaced[changed][:2])


def test_rendered_rain_does_not_depend_on_how_the_batch_is_split():
    rain = torch.zeros(6, 1, 16, 16)
    whole = replace_by_rendered(rain, varied(rendered=0.5), drawn(rain))
    for rows in ([0, 2, 4], [1, 3, 5]):
        assert torch.equal(
            replace_by_rendered(rain[rows], varied(rendered=0.5), BatchRandom(0, 1, rows, 6)), whole[rows]
        )


def test_rain_is_rendered_by_the_renderer_of_that_name():
    rain = torch.zeros(1, 1, 32, 48)
    random = drawn(rain)
    random.coin(1.0, rain)
    seed = int(torch.randint(2**62, (1,), generator=random.generator))
    for name, render in (("demo", render_rain), ("photograph", render_photographic_rain)):
        replaced = replace_by_rendered(rain, varied(rendered=1.0, renderer=name), drawn(rain))
        assert torch.equal(replaced[0, 0], torch.from_numpy(render((32, 48), np.random.default_rng(seed))))


def test_what_is_not_asked_for_changes_nothing_and_draws_no_number():
    clean, rain = layers()
    random = drawn(rain)
    before = random.generator.get_state()
    assert replace_by_rendered(rain, varied(), random) is rain
    assert add_structure(clean, varied(), random) is clean
    assert finish_pairs(clean, rain, varied(), random) == (clean, rain)
    assert torch.equal(random.generator.get_state(), before)


def test_given_further_layers_take_the_places_of_the_other_images():
    clean, rain = torch.zeros(4, 3, 6, 6), torch.zeros(4, 1, 6, 6)
    options = varied(layers=2)
    rainy = make_pseudo_rainy(clean, rain, options, drawn(clean, 2), [torch.full_like(rain, 0.5)])
    values = {tuple(image.unique().tolist()) for image in rainy}
    assert values == {(0.0,), (0.5,)}
