"""Weights from and to files, ours and BasicSR's."""

import collections
import json
import os

import pytest
import safetensors
import torch
from basicsr.models.base_model import BaseModel
from malicious import write_malicious

from nlcl_plugin.errors import InputError
from nlcl_plugin.networks import weights


@pytest.fixture
def model():
    return BaseModel({"num_gpu": 0, "is_train": True})


@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
def test_a_network_cannot_run_code(model, tmp_path, how):
    path = str(tmp_path / "net_g_9.pth")
    write_malicious(path, tmp_path / "victim", how)
    net = torch.nn.Linear(2, 2, bias=False)
    for load in (lambda: model.load_network(net, path), lambda: weights.load_weights(path)):
        with pytest.raises(InputError, match="torn, or not a checkpoint"):
            load()
    assert not (tmp_path / "victim").exists()


def test_weights_come_back_from_safetensors_as_they_were(tmp_path):
    shared = torch.randn(4, 3, 3, 3)
    saved = {
        "a": shared.to(memory_format=torch.channels_last),
        "b": shared,
        "c": shared[:2],
        "d": torch.tensor(3),
        "e": torch.ones(2, dtype=torch.bfloat16, requires_grad=True),
    }
    path = tmp_path / "net.safetensors"
    weights.save_safetensors(path, saved, {"iteration": 1000})
    back = weights.load_weights(path)
    assert set(back) == set(saved)
    assert all(torch.equal(back[name], saved[name]) and back[name].dtype == saved[name].dtype for name in saved)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "iteration": "1000"}
    assert os.listdir(tmp_path) == ["net.safetensors"]


PLAIN = {"module.a": torch.zeros(1), "params": torch.zeros(1)}  # a weight may have any name
HELD = {name: {"a": torch.full((1,), value)} for name, value in (("params", 1.0), ("params_ema", 2.0), ("own", 3.0))}


@pytest.mark.parametrize(
    ("held", "keys", "expected"),
    [
        (("params", "params_ema", "own"), (), "params_ema"),
        (("params", "params_ema", "own"), ("params",), "params"),
        (("params", "params_ema", "own"), ("other", None), "params_ema"),
        (("params", "own"), ("params_ema", "own"), "own"),  # an average that has none of its own: as its network
        (("own",), ("params_ema", "own"), "own"),
    ],
)
def test_weights_are_those_asked_for_else_the_average_else_the_network(tmp_path, held, keys, expected):
    torch.save({name: HELD[name] for name in held}, tmp_path / "net.pth")
    assert weights.load_weights(tmp_path / "net.pth", *keys) == HELD[expected]


@pytest.mark.parametrize(
    ("content", "key", "match"),
    [
        (
            {"a": {}, "b": 1},
            "own",
            "no weights under 'own' or 'params_ema' or 'params' but a, b; name their key in path",
        ),
        ({"params": [1]}, "params", "expected the weights of a network under 'params'"),
        ([torch.ones(1)], "params", "expected the weights of a network"),
    ],
)
def test_files_without_weights_are_named(tmp_path, content, key, match):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(InputError, match=match):
        weights.load_weights(tmp_path / "net.pth", key)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_missing_and_torn_weights_are_told_apart(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: missing"):
        weights.load_weights(tmp_path / name)
    (tmp_path / name).write_bytes(b"\x08" * 20)
    with pytest.raises(InputError, match=rf"{name}: torn, or not a checkpoint \(.+\)") as raised:
        weights.load_weights(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_what_a_training_state_contains_keeps_its_types(tmp_path):
    content = {"milestones": collections.Counter([3, 3]), "b": (1, [2.0, None, "x"]), "c": torch.arange(3)}
    torch.save(content, tmp_path / "3.state")
    loaded = weights.load_plain(tmp_path / "3.state")
    assert type(loaded["milestones"]) is collections.Counter
    assert (loaded["milestones"], loaded["b"]) == (content["milestones"], content["b"])
    assert torch.equal(loaded["c"], content["c"])


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"metric": "psnr", "value": 30.5, "iter": 4, "better": "higher"}, "net_g_4.pth"),
        ({"metric": "psnr", "value": 30.5, "iter": 5, "better": "higher"}, "net_g_latest.pth"),  # it is gone
        ("{", "net_g_latest.pth"),
        (None, "net_g_latest.pth"),
    ],
)
def test_the_best_network_is_taken_where_it_is_known_else_the_newest(tmp_path, record, expected):
    for name in ("4", "6", "latest"):
        torch.save({"params": {}}, tmp_path / f"net_g_{name}.pth")
    if record is not None:
        (tmp_path / "best.json").write_text(record if isinstance(record, str) else json.dumps(record))
    assert weights.best_or_newest(tmp_path, "g") == tmp_path / expected
    assert weights.best_or_newest(tmp_path, "s") is None
