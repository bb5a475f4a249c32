"""Option files are read as plain values, merged, overridden and written; nothing in them is run."""

import os

import pytest
import torch

from nlcl_plugin.config.option_files import load_yaml, override, write_options
from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.weights import newest_checkpoint


def write(tmp_path, **texts):
    """Write option files, `sub__base` as sub/base.yml; returns the path of `own`."""
    for name, text in texts.items():
        path = tmp_path / f"{name.replace('__', '/')}.yml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return str(tmp_path / "own.yml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, 1e-4) for text in ("1e-4", "1E-4", "1.0e-4", ".1e-3")),
        *((text, text) for text in ("v1e4", "e5", "2024-01-02")),
    ],
)
def test_a_number_is_a_number_and_a_date_a_text_however_it_is_spelt(tmp_path, text, value):
    assert load_yaml(write(tmp_path, own=f"b: 1\na: {text}"))["a"] == value


def test_merge_keys_take_over_a_block_own_keys_win_and_nothing_is_shared(tmp_path):
    text = "b: &b {x: 1, y: {z: 2}}\na: {<<: *b, x: 3}\nc: {x: 4, <<: [*b]}\nd: *b"
    options = load_yaml(write(tmp_path, own=text))
    y = {"y": {"z": 2}}
    assert options == {"b": {"x": 1, **y}, "a": {"x": 3, **y}, "c": {"x": 4, **y}, "d": {"x": 1, **y}}
    assert list(options) == ["b", "a", "c", "d"]
    options["d"]["y"]["z"] = 5
    assert options["b"]["y"] == options["a"]["y"] == {"z": 2}


NO_OPTIONS = [
    ("a: 1\nb: {c: 1, c: 2}", "the key 'c' occurs twice"),
    ("{1: 2}", "the key 1 is no text"),
    ("a: [1", "not valid YAML"),
    ("- 1", "must contain a mapping of options, but contains list"),
    ("!!python/object/apply:os.system ['touch /tmp/never']", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "match"), NO_OPTIONS, ids=[text[:20] for text, _ in NO_OPTIONS])
def test_files_that_are_not_plain_options_are_refused(tmp_path, text, match):
    with pytest.raises(InputError, match=match):
        load_yaml(write(tmp_path, own=text))


def test_overrides_set_typed_values_may_add_keys_and_are_never_evaluated():
    options = {"train": {"optim_g": {"lr": 1.0}}, "name": "a"}
    override(options, ["train:optim_g:lr=2e-4", "train:ema_decay=~", "b=c=d", "name=[__import__('os').getcwd()]"])
    train = {"optim_g": {"lr": 2e-4}, "ema_decay": None}
    assert options == {"train": train, "name": ["__import__('os').getcwd()"], "b": "c=d"}


@pytest.mark.parametrize(
    ("entry", "match"),
    [
        ("train", "expected block:key=value"),
        ("train.total_iter=5", r"expected block:key=value \(colons, no dots\), but received"),
        ("val:x=1", "there is no block 'val'; set it whole, val={x: 1}"),
        ("trian:total_iter=5", "there is no block 'trian'; did you mean 'train'?"),
    ],
)
def test_malformed_overrides_are_refused(entry, match):
    with pytest.raises(InputError, match=match):
        override({"train": {}, "name": "a"}, [entry])


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"g_9": 9, "g_100": 100, "g_20": 20, "gg_200": 200}, "net_g_100.pth"),
        ({"g_9": 9, "g_latest": None}, "net_g_latest.pth"),  # of stock BasicSR, which writes it at the end
        ({"g_9": 9, "g_latest": 8}, "net_g_9.pth"),  # the training continued after its end
    ],
)
def test_a_folder_stands_for_the_newest_checkpoint_of_a_letter_by_iteration(tmp_path, files, expected):
    for age, (name, iteration) in enumerate(files.items()):
        path = tmp_path / f"net_{name}.pth"
        torch.save({"params": {}, "about": {"iter": iteration}} if iteration else {"params": {}}, path)
        os.utime(path, (5000 - age, 5000 - age))
    assert newest_checkpoint(str(tmp_path), "pretrain_network_g") == str(tmp_path / expected)
    with pytest.raises(InputError, match=r"path.resume_state: the folder .* no "):
        newest_checkpoint(str(tmp_path), "resume_state")
    for name in ("9.state", "100.state", "20.state"):
        (tmp_path / name).touch()
    assert newest_checkpoint(str(tmp_path), "resume_state") == str(tmp_path / "100.state")


BASE = """
name: base
train: {total_iter: 10, optim_g: {type: Adam, lr: 1e-4, betas: [0.5, 0.9]}, gan_opt: {type: GANLoss}}
val: {val_freq: 5}
"""


def test_blocks_are_merged_lists_and_values_replaced_and_deleted_blocks_forgotten(tmp_path, monkeypatch):
    own = "_base_: sub/base.yml\ntrain: {optim_g: {lr: 2e-4, betas: [0.9]}, amp: bf16}\nval: ~\nname: own"
    path = write(tmp_path, sub__base=BASE, own=own)
    monkeypatch.chdir("/")  # the base is found beside the file, not in the current folder
    options = load_yaml(path)
    train = {"total_iter": 10, "optim_g": {"type": "Adam", "lr": 2e-4, "betas": [0.9]}, "gan_opt": {"type": "GANLoss"}}
    assert options == {"name": "own", "train": {**train, "amp": "bf16"}, "val": None}
    assert list(options) == ["name", "train", "val"]
    own = "_base_: base.yml\ntrain: {optim_g: {_delete_: true, type: SGD}, gan_opt: {_delete_: false, weight: 1}}\n"
    options = load_yaml(write(tmp_path, base=BASE, own=own + "new: {_delete_: true, a: {_delete_: true, b: 1}}"))
    assert options["train"]["optim_g"] == {"type": "SGD"}
    assert options["train"]["gan_opt"] == {"type": "GANLoss", "weight": 1}
    assert options["new"] == {"a": {"b": 1}}


def test_later_bases_win_and_two_ways_to_one_base_are_no_circle(tmp_path):
    first, second = "_base_: root.yml\nb: 2\nc: 2\nd: 2", "_base_: root.yml\nc: 3\nd: 3"
    own = "_base_: [first.yml, second.yml]\nd: 4"
    path = write(tmp_path, root="a: 1\nd: 1", first=first, second=second, own=own)
    assert load_yaml(path) == {"a": 1, "b": 2, "c": 3, "d": 4}


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        ({"own": "_base_: a.yml", "a": "_base_: b.yml", "b": "_base_: ./a.yml"}, r"\(a.yml → b.yml → a.yml\)"),
        ({"own": "_base_: [a.yml, none.yml]", "a": "x: 1"}, "own.yml: _base_: there is no file '.*none.yml'"),
        ({"own": "_base_: nlcl_smal.yml"}, "there is no file '.*'; .*; did you mean 'nlcl_small.yml'"),
        ({"own": "_base_: {a: 1}"}, "own.yml: _base_: expected an option file or a list of them"),
    ],
)
def test_wrong_bases_are_named_in_one_line(tmp_path, texts, match):
    with pytest.raises(InputError, match=match) as raised:
        load_yaml(write(tmp_path, **texts))
    assert "\n" not in str(raised.value)


def test_written_options_are_read_back_as_the_same(tmp_path):
    shared = {"lr": 1e-5, "eps": 1e-08, "n": 5000.0}
    texts = ["1e-4", "1E5", "0x1f", "on", "~", "", "2024-01-02", "ä → ß", "x: y", "a\nb", "1_000", "0o7", "=", "1:30"]
    values = [None, True, 0, -1, 0.1, 1e300, float("inf")]
    options = {"b": shared, "a": [shared, [], {}], "texts": texts, "values": values, "on": 1, "1e4": 2}
    path = tmp_path / "written.yml"
    write_options(str(path), options, comment="first line\nsecond: line")
    assert load_yaml(str(path)) == options
    assert list(load_yaml(str(path))) == list(options)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# first line\n# second: line\nb:\n  lr: 1.0e-05\n")
    assert "&" not in text
    assert "ä → ß" in text
    assert os.listdir(tmp_path) == ["written.yml"]
