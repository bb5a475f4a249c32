"""Weights from and to files, ours and BasicSR's."""

import pytest
import safetensors
import torch

from nlcl_plugin.errors import InputError
from nlcl_plugin.networks import weights


def load(path, *keys):
    return weights.weights_of(weights.load_plain(path), path, *keys)


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
    path.write_bytes(weights.safetensors_bytes(saved, {"iteration": "1000"}))
    back = load(path)
    assert set(back) == set(saved)
    assert all(torch.equal(back[name], saved[name]) and back[name].dtype == saved[name].dtype for name in saved)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "iteration": "1000"}


def test_files_without_weights_under_the_key_are_named_and_missing_or_damaged_ones_told_apart(tmp_path):
    torch.save({"a": {}, "b": 1}, tmp_path / "net.pth")
    with pytest.raises(InputError, match=r"no weights under 'own' or .* but a, b; name their key in path"):
        load(tmp_path / "net.pth", "own")
    for name in ("net.pth", "net.safetensors"):
        (tmp_path / name).write_bytes(b"\x08" * 20)
        with pytest.raises(InputError, match=rf"{name}: damaged, or not a file of weights"):
            load(tmp_path / name)
        (tmp_path / name).unlink()
        with pytest.raises(InputError, match=f"{name}: no such file or folder"):
            load(tmp_path / name)


def test_the_best_network_is_taken_where_it_is_known_else_the_newest(tmp_path):
    for name in ("4", "6", "latest"):
        torch.save({"params": {}}, tmp_path / f"net_g_{name}.pth")
    for record, expected in ((None, "latest"), ('{"iter": 4}', "4"), ('{"iter": 5}', "latest"), ("{", "latest")):
        if record is not None:  # iteration 5 is gone
            (tmp_path / "best.json").write_text(record)
        assert weights.best_or_newest(tmp_path, "g") == tmp_path / f"net_g_{expected}.pth"
    assert weights.best_or_newest(tmp_path, "s") is None
