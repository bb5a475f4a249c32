"""Whatever becomes of an option file, `basicsr check` ends in a clean pass or in one line; nothing is run or written.

Every example is an option file that we ship, made small, with one to three mutations.
"""

import copy
import functools
import os

import cv2
import pytest
import torch
import yaml
from conftest import REPOSITORY, photograph
from hostile import watch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training_helpers import make_folders

from nlcl_plugin import cli
from nlcl_plugin.archs import ResidualUNet
from nlcl_plugin.config.option_files import load_yaml
from nlcl_plugin.data.lmdb.create import create_lmdb

FILES = sorted((REPOSITORY / "options").glob("*.yml"))
SMALL = {  # so that a step takes no time
    "gt_size": 32, "batch_size_per_gpu": 2, "num_worker_per_gpu": 0, "persistent_workers": False, "num_feat": 4,
    "num_block": 1, "num_layers": 2, "num_rain_patches": 8, "patch_size": 6, "search_size": 12, "num_patches": 8,
    "num_queries": 1, "num_group": 1, "embed_dim": 8, "depths": [2], "num_heads": [2], "squeeze_factor": 2, "width": 4,
    "num_gpu": 0, "use_tb_logger": False,
}  # fmt: skip
VALUES = [-1, 0, 3, 10**30, 0.5, float("nan"), True, None, "", "x", "1,5", "../..", "two\nlines", "$(touch canary)", [],
          [1, "a", None], {}, {"type": "x"}]  # fmt: skip
TEXTS = [  # put in place of a value, as YAML
    "!!python/object/apply:os.system ['touch canary']", "!!python/name:os.system", "!!binary aGVsbG8=", "&a [*a]",
    "{<<: 3}", "{1: 2}", "*nowhere", "[1, 2", "{a: b: c}",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that the option files ask for, tiny, except the demo data, which would be made."""
    root = tmp_path_factory.mktemp("fuzz")
    rain = root / "datasets" / "rain"
    rain.mkdir(parents=True)
    make_folders(rain, photograph)
    for path in (rain / "clean").iterdir():  # equal names, for those that want pairs
        cv2.imwrite(str(rain / "rainy" / path.name), photograph(48, 56, seed=3))
    for path in (rain / "rainy").glob("rainy_*"):
        path.unlink()
    for kind in ("rainy", "clean"):
        create_lmdb(rain / kind, rain / f"{kind}.lmdb")
    create_lmdb(rain / "rainy", root / "datasets" / "nlcl_demo_rain.lmdb")
    models = root / "experiments" / "nlcl_quickstart" / "models"
    models.mkdir(parents=True)
    weights = ResidualUNet(num_feat=4, num_block=1).state_dict()
    torch.save({"params": weights, "params_ema": weights}, models / "net_s_latest.pth")
    return root


@functools.cache
def small_options(path):
    def shrink(block):
        for key, value in block.items():
            if isinstance(value, dict):
                shrink(value)
            elif key in SMALL:
                block[key] = SMALL[key]
            elif key == "taps":
                block[key] = [0, 1]

    options = load_yaml(str(path))
    shrink(options)
    for label in ("network_s", "network_g"):
        if path.stem in ("nlcl_real", "restorer_context"):
            options["path"].pop(f"pretrain_{label}", None)  # of the full size
        if options.get(label, {}).get("type") in ("ResidualUNet", "ContextUNet"):
            options[label]["num_block"] = 1
    return options


@st.composite
def option_files(draw):
    """The text of a mutated option file."""

    def places(value, place=()):
        for key, entry in value.items() if isinstance(value, dict) else ():
            yield (*place, key)
            yield from places(entry, (*place, key))

    options, texts = copy.deepcopy(small_options(draw(st.sampled_from(FILES)))), []
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(sorted(places(options), key=str)))
        holder = functools.reduce(lambda value, step: value[step], above, options)
        kind = draw(st.sampled_from(["delete", "rename", "list", "replace", "replace", "nest", "yaml"]))
        value = holder.pop(key)
        if kind == "rename":
            holder[draw(st.sampled_from([key[:-1], f"{key}s", key.upper(), "__class__", "_delete_", "type"]))] = value
        elif kind != "delete":
            texts.append(draw(st.sampled_from(TEXTS)))
            changed = {"list": [value], "nest": {key: value}, "yaml": f"@{len(texts) - 1}@"}
            holder[key] = changed.get(kind, draw(st.sampled_from(VALUES)))
    text = yaml.safe_dump(options, sort_keys=False, allow_unicode=True)
    for i, replacement in enumerate(texts):
        text = text.replace(f"'@{i}@'", replacement)
    return text


def check(folder, text, capsys):
    path = folder / "options.yml"
    path.write_text(text, encoding="utf-8")
    before = sorted(map(str, folder.rglob("*")))
    watch().seen.clear()
    capsys.readouterr()
    home = os.getcwd()
    os.chdir(folder)
    watch().on = True
    try:
        code = cli.main(["check", "-opt", str(path)])
    finally:
        watch().on = False
        os.chdir(home)
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if not line.startswith("warning: ")]
    assert (code, len(errors), bool(printed.out)) in ((0, 0, True), (2, 1, False))
    assert all(line.startswith("error: ") and line.isprintable() for line in errors)
    assert watch().seen == []
    assert sorted(map(str, folder.rglob("*"))) == before
    return code


@settings(max_examples=25, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=option_files())
def test_a_mutated_option_file_passes_or_is_refused_in_one_line(folder, capsys, text):
    check(folder, text, capsys)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_option_file_that_is_left_alone_passes(folder, capsys, path):
    assert check(folder, yaml.safe_dump(small_options(path)), capsys) == 0
