import os

import pytest
import torch

from nlcl_plugin.config.option_files import load_yaml, override, write_options
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.weights import newest_checkpoint


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


def test_yaml_merge_keys_take_over_a_block_and_own_keys_win(tmp_path):
    text = "a: &a {x: 1, y: {z: 2}}\nb: {<<: *a, x: 3}\nc: {x: 4, <<: [*a]}"
    assert load_yaml(write(tmp_path, text)) == {
        "a": {"x": 1, "y": {"z": 2}},
        "b": {"x": 3, "y": {"z": 2}},
        "c": {"x": 4, "y": {"z": 2}},
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\nb: {c: 1, c: 2}", "the key 'c' stands twice"),
        ("a: &a {x: 1}\nb: {<<: *a, c: 1, c: 2}", "the key 'c' stands twice"),
        ("b: {<<: 3}", "not valid YAML"),
        ("a: [1", "not valid YAML"),
        ("- 1", "must hold a mapping of options, but holds list"),
        ("", "must hold a mapping of options, but holds NoneType"),
        ("!!python/object/apply:os.system ['touch /tmp/never']", "not valid YAML"),
        ("a: !!python/name:os.system", "not valid YAML"),
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
        ("val:x=1", "there is no block 'val'; set it whole, val={x: 1}"),
        ("trian:total_iter=5", "there is no block 'trian'; did you mean 'train'?"),
        ("name:x=1", "there is no block 'name'"),
        ("name=[1", "not valid YAML"),
        ("name=!!python/name:os.system", "not valid YAML"),
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


def saved(folder, **iterations):
    """Network files `net_{name}.pth` that say of which iteration they are, the last one the oldest of them."""
    for age, (name, iteration) in enumerate(iterations.items()):
        path = folder / f"net_{name}.pth"
        torch.save({"params": {}, "about": {"iter": iteration}} if iteration else {"params": {}}, path)
        os.utime(path, (5000 - age, 5000 - age))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"g_9": 9, "g_100": 100, "g_20": 20}, "net_g_100.pth"),
        ({"g_9": 9, "g_latest": 9}, "net_g_latest.pth"),
        ({"g_9": 9, "g_latest": None}, "net_g_latest.pth"),  # of stock BasicSR, which writes it at the end
        ({"g_9": 9, "g_latest": 8}, "net_g_9.pth"),  # the training went on after its end
        ({"s_latest": 99, "g_3": 3, "gg_200": 200, "g_4.tmp": 4}, "net_g_3.pth"),
    ],
)
def test_a_folder_stands_for_the_newest_checkpoint_of_a_letter_by_iteration(tmp_path, files, expected):
    saved(tmp_path, **files)
    assert newest_checkpoint(str(tmp_path), "pretrain_network_g") == str(tmp_path / expected)


def test_a_folder_of_states_stands_for_the_newest_by_iteration(tmp_path):
    for age, name in enumerate(("9.state", "100.state", "20.state", "200.sha256", "latest.state")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert newest_checkpoint(str(tmp_path), "resume_state") == str(tmp_path / "100.state")


def test_a_file_stands_for_itself_and_folders_without_checkpoints_are_named(tmp_path):
    saved(tmp_path, s_5=5)
    assert newest_checkpoint(str(tmp_path / "net_s_5.pth"), "pretrain_network_s") == str(tmp_path / "net_s_5.pth")
    with pytest.raises(InputError, match=r"path.pretrain_network_d: the folder .* holds no net_d_\*.pth"):
        newest_checkpoint(str(tmp_path), "pretrain_network_d")
    with pytest.raises(InputError, match=r"path.resume_state: the folder .* holds no \*.state"):
        newest_checkpoint(str(tmp_path), "resume_state")
    with pytest.raises(InputError, match="there is no file or folder"):
        newest_checkpoint(str(tmp_path / "none"), "pretrain_network_d")


# option files that build on another -----------------------------------------------------------------------------------
BASE = """
name: base
train: {total_iter: 10, optim_g: {type: Adam, lr: 1e-4, betas: [0.5, 0.9]}, gan_opt: {type: GANLoss}}
val: {val_freq: 5}
"""


def write_files(tmp_path, **texts):
    for name, text in texts.items():
        path = tmp_path / f"{name.replace('__', '/')}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(tmp_path / "own.yml")


def test_blocks_are_merged_and_lists_and_values_replaced(tmp_path, monkeypatch):
    own = "_base_: sub/base.yml\ntrain: {optim_g: {lr: 2e-4, betas: [0.9]}, amp: bf16}\nval: ~\nname: own"
    path = write_files(tmp_path, sub__base=BASE, own=own)
    monkeypatch.chdir("/")  # the base is found beside the file, not in the current folder
    options = load_yaml(path)
    assert options == {
        "name": "own",
        "train": {
            "total_iter": 10,
            "optim_g": {"type": "Adam", "lr": 2e-4, "betas": [0.9]},
            "gan_opt": {"type": "GANLoss"},
            "amp": "bf16",
        },
        "val": None,
    }
    assert list(options) == ["name", "train", "val"]


def test_a_block_that_deletes_takes_nothing_over(tmp_path):
    own = "_base_: base.yml\ntrain: {optim_g: {_delete_: true, type: SGD}, gan_opt: {_delete_: false, weight: 1}}\n"
    options = load_yaml(write_files(tmp_path, base=BASE, own=own + "new: {_delete_: true, a: {_delete_: true, b: 1}}"))
    assert options["train"]["optim_g"] == {"type": "SGD"}
    assert options["train"]["gan_opt"] == {"type": "GANLoss", "weight": 1}
    assert options["new"] == {"a": {"b": 1}}


def test_later_bases_win_and_bases_have_bases(tmp_path):
    path = write_files(
        tmp_path,
        root="a: 1\nb: 1\nc: 1\nd: 1",
        first="_base_: root.yml\nb: 2\nc: 2\nd: 2",
        second="c: 3\nd: 3",
        own="_base_: [first.yml, second.yml]\nd: 4",
    )
    assert load_yaml(path) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_two_ways_to_one_base_are_no_circle(tmp_path):
    path = write_files(
        tmp_path,
        root="a: 1",
        first="_base_: root.yml",
        second="_base_: root.yml",
        own="_base_: [first.yml, second.yml]",
    )
    assert load_yaml(path) == {"a": 1}


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ({"own": "_base_: own.yml"}, r"own.yml: _base_ leads back to where it began \(own.yml → own.yml\)"),
        (
            {"own": "_base_: a.yml", "a": "_base_: b.yml", "b": "_base_: ./a.yml"},
            r"a.yml: _base_ leads back to where it began \(a.yml → b.yml → a.yml\)",
        ),
        ({"own": "_base_: [a.yml, none.yml]", "a": "x: 1"}, "own.yml: _base_: there is no file '.*none.yml'"),
        ({"own": "_base_: a.yml", "a": "_base_: sub"}, "a.yml: _base_: there is no file"),
        (
            {"own": "_base_: {a: 1}"},
            "own.yml: _base_: expected an option file or a list of them, but received {'a': 1}",
        ),
        ({"own": "_base_: [1]"}, r"_base_: expected an option file or a list of them, but received \[1\]"),
        ({"own": "_base_: ~"}, "_base_: expected an option file"),
        ({"own": "_base_: a.yml", "a": "- 1"}, "a.yml must hold a mapping"),
        ({"own": "a: {_delete_: 1}"}, "own.yml: _delete_: expected true or false, but received 1"),
    ],
)
def test_wrong_bases_are_told_in_one_line(tmp_path, texts, match):
    with pytest.raises(InputError, match=match) as raised:
        load_yaml(write_files(tmp_path, **texts))
    assert "\n" not in str(raised.value)


def test_written_options_are_read_back_as_the_same(tmp_path):
    shared = {"lr": 1e-5, "eps": 1e-08, "n": 5000.0}
    options = {
        "b": shared,
        "a": [shared, [], {}],
        "texts": [
            "1e-4",
            "1E5",
            "0x1f",
            "on",
            "~",
            "",
            "2024-01-02",
            "ä → ß",
            "x: y",
            "a\nb",
            "1_000",
            "0o7",
            "=",
            "1:30",
        ],
        "values": [None, True, 0, -1, 0.1, 1e300, float("inf")],
        "on": 1,
        "1e4": 2,
    }
    path = str(tmp_path / "written.yml")
    write_options(path, options, comment="first line\nsecond: line")
    assert load_yaml(path) == options
    assert list(load_yaml(path)) == list(options)
    text = (tmp_path / "written.yml").read_text(encoding="utf-8")
    assert text.startswith("# first line\n# second: line\nb:\n  lr: 1.0e-05\n")
    assert "&" not in text
    assert "ä → ß" in text
    assert os.listdir(tmp_path) == ["written.yml"]
