"""Weights to begin with, in whatever way a file holds them: in our model, in a stock one and in one with the mix-in."""

import addon_helpers
import model_helpers
import pytest
import torch

from nlcl_plugin.errors import InputError

MODELS = ("NLCLModel", "SRModel")


def begun(tmp_path, model, content, **path):
    """A model with a moving average that begins with a file; its network and that average."""
    torch.save(content, tmp_path / "given.pth")
    helpers = model_helpers if model == "NLCLModel" else addon_helpers
    opt = helpers.options(tmp_path) if model == "NLCLModel" else addon_helpers.stock(helpers.options(tmp_path))
    opt["path"].update(pretrain_network_g=str(tmp_path / "given.pth"), **path)
    built = helpers.build(opt)
    return built.net_g, built.averages["g"] if model == "NLCLModel" else built.net_g_ema


def weights(tmp_path, model, value):
    helpers = model_helpers if model == "NLCLModel" else addon_helpers
    net = helpers.build(helpers.options(tmp_path)).net_g
    return {name: torch.full_like(tensor, value) for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("keys", "path", "expected"),
    [
        (None, {}, (1, 1)),
        (["params_ema"], {}, (1, 1)),
        (["params", "params_ema"], {}, (1, 2)),
        (["params", "params_ema"], {"param_key_g": "params_ema"}, (2, 2)),
        (["params", "generator"], {"param_key_g": "generator"}, (2, 2)),
        (["state_dict"], {"param_key_g": "state_dict"}, (1, 1)),
        (["params_ema", "generator"], {"param_key_g": "generator"}, (2, 1)),
    ],
)
def test_a_network_and_its_average_begin_with_what_the_file_has(tmp_path, model, keys, path, expected):
    kinds = [weights(tmp_path, model, value) for value in (1, 2)]
    content = kinds[0] if keys is None else dict(zip(keys, kinds, strict=False))
    found = begun(tmp_path, model, content, **path)
    for net, value in zip(found, expected, strict=True):
        assert all((tensor == value).all() for tensor in net.parameters())


@pytest.mark.parametrize("model", MODELS)
def test_a_file_of_another_key_is_named_with_the_key_to_set(tmp_path, model):
    content = {"epoch": 3, "generator": weights(tmp_path, model, 1)}
    with pytest.raises(InputError, match=r"under 'params' or .* but epoch, generator; .* path.param_key_g") as raised:
        begun(tmp_path, model, content)
    assert "\n" not in str(raised.value)
