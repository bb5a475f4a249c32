import os

import pytest

from nlcl_plugin.engine.options import load_yaml, newest_checkpoint, override
from nlcl_plugin.errors import InputError


def write(tmp_path, text):
    path = tmp_path / "options.yml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.0e-4", "!!float 1e-4", "0.0001", ".1e-3"])
def test_every_spelling_of_a_small_number_is_a_number(tmp_path, text):
    assert load_yaml(write(tmp_path, f"lr: {text}"))["lr"] == pytest.approx(1e-4)


@pytest.mark.parametrize("text", ["v1e4", "1e", "e5", "2024-01-02e"])
def test_text_that_resembles_a_number_stays_text(tmp_path, text):
    assert load_yaml(write(tmp_path, f"name: {text}"))["name"] == text


def test_order_of_keys_is_kept(tmp_path):
    assert list(load_yaml(write(tmp_path, "b: 1\na: 2\nc: 3"))) == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' stands twice"),
        ("a: [1", "is not valid YAML"),
        ("- 1", "must hold a mapping of options, but holds list"),
        ("", "must hold a mapping of options, but holds NoneType"),
        ("!!python/object/apply:os.system ['touch /tmp/never']", "is not valid YAML"),
        ("a: !!python/name:os.system", "is not valid YAML"),
    ],
)
def test_files_that_are_not_plain_options_are_refused(tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        load_yaml(write(tmp_path, text))


def test_missing_file_and_folder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none.yml': No such file"):
        load_yaml(str(tmp_path / "none.yml"))
    with pytest.raises(InputError, match="Is a directory"):
        load_yaml(str(tmp_path))


def test_overrides_set_typed_values_and_may_add_keys():
    options = {"train": {"optim_g": {"lr": 1.0}}, "name": "a"}
    override(
        options, ["train:optim_g:lr=2e-4", "name=b=c", "train:ema_decay=~", "train:milestones=[1, 2]", "debug=true"]
    )
    assert options == {
        "train": {"optim_g": {"lr": 2e-4}, "ema_decay": None, "milestones": [1, 2]},
        "name": "b=c",
        "debug": True,
    }


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ("train", "expected block:key=value"),
        ("train::lr=1", "expected block:key=value"),
        ("val:x=1", "there is no block 'val'"),
        ("name:x=1", "there is no block 'name'"),
        ("name=[1", "the value is not valid YAML"),
        ("name=!!python/name:os.system", "the value is not valid YAML"),
    ],
)
def test_malformed_overrides_are_refused(entry, match):
    with pytest.raises(InputError, match=match):
        override({"train": {}, "name": "a"}, [entry])


def test_overrides_are_never_evaluated():
    options = {"name": "a"}
    override(options, ["name=[__import__('os').getcwd()]", 'a"]=1;import os;x["=1'])
    assert options["name"] == ["__import__('os').getcwd()"]
    assert 'a"]' in options


def test_folder_of_checkpoints_stands_for_the_newest(tmp_path):
    names = ("net_g_90.pth", "net_g_latest.pth", "net_g_100.pth", "net_s_5.pth", "net_s_latest.pth", "net_g_9.pth.tmp")
    for age, name in enumerate(names):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert newest_checkpoint(str(tmp_path), "pretrain_network_g") == str(tmp_path / "net_g_100.pth")
    assert newest_checkpoint(str(tmp_path), "pretrain_network_s") == str(tmp_path / "net_s_latest.pth")
    assert newest_checkpoint(str(tmp_path / "net_s_5.pth"), "pretrain_network_s") == str(tmp_path / "net_s_5.pth")
    with pytest.raises(InputError, match=r"path.pretrain_network_d: the folder .* holds no net_d_\*.pth"):
        newest_checkpoint(str(tmp_path), "pretrain_network_d")
    with pytest.raises(InputError, match="there is no file or folder"):
        newest_checkpoint(str(tmp_path / "none"), "pretrain_network_d")
