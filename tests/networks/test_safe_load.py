"""Files that say more than they hold, or hide what they are, are refused before they take memory."""

import collections
import zipfile

import pytest
import torch

from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.network_file import read_network_file
from nlcl_plugin.networks.safe_load import load_plain


def call(module, name, argument):
    """A pickle that calls a function with one number."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"J" + argument.to_bytes(4, "little") + b"\x85R."


@pytest.mark.parametrize("module", ["builtins", "__builtin__"])
def test_a_few_bytes_that_ask_for_much_memory_are_refused(tmp_path, module):
    path = tmp_path / "a.pth"
    path.write_bytes(call(module, "bytearray", 5))  # a small number would do no harm, but it may be any
    with pytest.raises(InputError, match="bytearray, where only tensors and plain values"):
        load_plain(path)


def test_a_tensor_of_one_value_that_says_it_is_many_is_refused_and_a_small_one_is_not(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(1).expand(10**6, 10**6)}, path)
    with pytest.raises(InputError, match="but not so many values"):
        load_plain(path)
    torch.save({"a": torch.ones(1).expand(3, 4)}, path)
    assert load_plain(path)["a"].shape == (3, 4)


def test_an_archive_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as whole,
        zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in whole.namelist():
            packed.writestr(name, whole.read(name))
    with pytest.raises(InputError, match="unpacks to more than"):
        load_plain(tmp_path / "b.pth")


def test_attributes_that_hide_methods_are_dropped(tmp_path):
    content = collections.OrderedDict(a=torch.ones(2))
    content.__dict__.update(get=None, values=3)  # torch.save needs the others
    torch.save(content, tmp_path / "a.pth")
    assert len(load_plain(tmp_path / "a.pth").values()) == 1


def test_what_a_training_state_holds_keeps_its_types(tmp_path):
    content = {"milestones": collections.Counter([3, 3]), "b": (1, [2.0, None, "x"]), "c": torch.arange(3)}
    torch.save(content, tmp_path / "3.state")
    loaded = load_plain(tmp_path / "3.state")
    assert loaded["milestones"] == collections.Counter([3, 3])
    assert type(loaded["milestones"]) is collections.Counter
    assert loaded["b"] == content["b"]
    assert torch.equal(loaded["c"], content["c"])


def test_a_description_that_means_very_much_is_refused(tmp_path):
    value = ["ha"]
    for _ in range(40):
        value = [value, value]
    torch.save({"params": {"a": torch.ones(1)}, "about": {"format": 1, "network": {"type": value}}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="expected some plain values"):
        read_network_file(tmp_path / "a.pth")


def test_names_of_weights_that_are_no_texts_are_refused(tmp_path):
    torch.save({"params": {3: torch.ones(1)}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds something else"):
        read_network_file(tmp_path / "a.pth")
