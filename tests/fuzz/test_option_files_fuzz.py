"""Whatever becomes of an option file, `basicsr check` ends in a clean pass or in one line; nothing is run or written.

Every example is made of an option file that we ship, made small, by up to three mutations. The draws are derived from
the test itself, so that every run sees the same examples.
"""

import copy
import functools
import os
import resource
from pathlib import Path

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
    "num_gpu": 0,
}  # fmt: skip
NUMBERS = [-1, 0, 1, 2, 3, 2**31, 2**53, 2**63, 10**30, 10**4000, -(10**30), 0.5, -0.0, 1e308, -1e308, 1e-320]
HOSTILE = [
    *NUMBERS, float("nan"), float("inf"), True, None, "", "x", "1e-4", "0x10", "1,5", "on", "~", "../..", "/",
    "a" * 5000,
    "two\nlines", "nul\0", "\x1b[31m", "ä→ß", "\u202e", "${HOME}", "$(touch canary)", "`touch canary`", "~root",
    "[__import__('os').system('touch canary')]", "/dev/zero", "/proc/self/mem", [], [[]], [1, "a", None], {},
    {"a": {}}, {"type": "x"}, {"type": None}, ["x"] * 50,
]  # fmt: skip
TEXTS = [  # put in place of a value, as YAML
    "!!python/object/apply:os.system ['touch canary']",
    "!!python/object/new:subprocess.Popen [['touch', 'canary']]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!!binary aGVsbG8=",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!timestamp 2024-01-02",
    "!!float x",
    "!!int 1.5",
    "!unknown {a: 1}",
    "2024-01-02",
    "2024-13-45 25:61:61",
    "&a [*a]",
    "&a {b: *a}",
    "{<<: 3}",
    "{? [1, 2] : 3}",
    "{1: 2}",
    "{a: 1, a: 2}",
    "*nowhere",
    "[1, 2",
    "{a: b: c}",
    "\t- x",
    "|\n  text\n over",
    "'",
    "%TAG",
    "0x" + "f" * 6000,
    "9" * 6000,
    "1:30:99",
    '"\\ud800"',
    '"\\x00"',
    "[" * 2000,
    "{a: " * 300,
    "[" * 30 + "]" * 30,
]
FORCED = [
    'a"]=1;import os;x["=1',
    "train:x=[__import__('os').system('touch canary')]",
    "name=!!python/name:os.system",
    "a:b:c=1",
    "=",
    "datasets:train=~",
    "train={}",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything that the option files ask for, tiny; but for the demo data, which would be made."""
    root = tmp_path_factory.mktemp("fuzz")
    rain = root / "datasets" / "rain"
    rain.mkdir(parents=True)
    make_folders(rain, photograph)
    for path in (rain / "rainy").iterdir():
        path.unlink()
    for path in (rain / "clean").iterdir():  # equal names, for those that want pairs
        cv2.imwrite(str(rain / "rainy" / path.name), photograph(48, 56, seed=3))
    for kind in ("rainy", "clean"):
        create_lmdb(rain / kind, rain / f"{kind}.lmdb", progress=False)
    create_lmdb(rain / "rainy", root / "datasets" / "nlcl_demo_rain.lmdb", progress=False)
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
        if options.get(label, {}).get("type") == "ResidualUNet":
            options[label]["num_block"] = 1
    options.get("logger", {})["use_tb_logger"] = False
    return options


def places(value, place=()):
    """Every place of a tree below its top."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*place, key)
        yield from places(entry, (*place, key))


def mutate(draw, options, texts):
    """Change one place of a tree."""
    found = list(places(options))
    # Mostly deep in it: without its name a file is refused before anything else is looked at.
    deep = [place for place in found if len(place) > 1]
    if not found:
        return
    *above, key = draw(st.sampled_from(deep if deep and draw(st.integers(0, 9)) else found))
    holder = functools.reduce(lambda value, step: value[step], above, options)
    kind = draw(st.sampled_from(["delete", "rename", "retype", "replace", "replace", "nest", "move", "double", "yaml"]))
    value = holder[key]
    if kind == "delete":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        name = str(key)
        near = [name[:-1], name + "s", name.upper(), name[::-1], "__class__", "_base_", "_delete_", "<<", "type", ""]
        del holder[key]
        holder[draw(st.sampled_from(near))] = value
    elif kind == "retype":
        number = value if isinstance(value, int | float) else 3
        retyped = [str(value), [value], {"type": value}, bool(value), float(number), -number, 10 * number]
        holder[key] = draw(st.sampled_from(retyped))
    elif kind == "replace":
        holder[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE)))
    elif kind == "nest":
        holder[key] = {str(key): value}
    elif kind == "move":
        other = draw(st.sampled_from(found))
        holder[key] = copy.deepcopy(functools.reduce(lambda value, step: value[step], other, options))
    elif kind == "double" and isinstance(holder, dict):
        holder[f"{key}_2"] = copy.deepcopy(value)
    elif kind == "yaml":
        texts.append(draw(st.sampled_from(TEXTS)))
        holder[key] = f"@{len(texts) - 1}@"


class Dumper(yaml.SafeDumper):
    """Also writes numbers that Python itself would not."""

    def ignore_aliases(self, data):
        return True


def whole_number(dumper, value):
    return dumper.represent_scalar("tag:yaml.org,2002:int", f"0x{value:x}" if abs(value) > 10**40 else str(value))


Dumper.add_representer(int, whole_number)


@st.composite
def option_files(draw):
    """The text of a mutated option file, and overrides for it."""
    options, texts = copy.deepcopy(small_options(draw(st.sampled_from(FILES)))), []
    for _ in range(draw(st.sampled_from([1, 1, 2, 3]))):
        mutate(draw, options, texts)
    text = yaml.dump(options, Dumper=Dumper, sort_keys=False, allow_unicode=True)
    for i, replacement in enumerate(texts):
        text = text.replace(f"'@{i}@'", replacement)
    if draw(st.integers(0, 19)) == 19:  # as a text, with no regard to what it says
        start = draw(st.integers(0, len(text)))
        junk = draw(
            st.sampled_from(["", "\0", "\t", "\ufeff", "\ud800", ":", "- ", "---\n", "\n\n...\n", "{", "#", "é"])
        )
        text = text[:start] + junk + text[start + draw(st.integers(0, 40)) :]
    return text, draw(st.sampled_from([*[None] * 20, *FORCED]))


def check(folder, example, capsys):
    text, forced = example
    path = folder / "options.yml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    before = sorted(map(str, folder.rglob("*")))
    watch().seen.clear()
    capsys.readouterr()
    home, limits = os.getcwd(), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    os.chdir(folder)
    # Sizes that a machine of any memory would refuse at some point are refused here before they take this one's.
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, limits[1]))
    watch().on = True
    try:
        code = cli.main(["check", "-opt", str(path), *(["--force_yml", forced] if forced else [])])
    finally:
        watch().on = False
        resource.setrlimit(resource.RLIMIT_AS, limits)
        os.chdir(home)
    told = capsys.readouterr()
    errors = [line for line in told.err.splitlines() if not line.startswith("warning: ")]
    if code == 0:
        assert errors == []
        assert told.out
    else:
        assert code == 2
        assert told.out == ""
        (line,) = errors
        assert line.startswith("error: ")
        assert line.isprintable()
    assert watch().seen == []
    assert sorted(map(str, folder.rglob("*"))) == before
    return code


EVERY_RUN = settings(
    max_examples=80, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)


@EVERY_RUN
@given(example=option_files())
def test_a_mutated_option_file_passes_or_is_refused_in_one_line(folder, capsys, example):
    check(folder, example, capsys)


@pytest.mark.slow
@settings(EVERY_RUN, max_examples=2000)
@given(example=option_files())
def test_two_thousand_mutated_option_files(folder, capsys, example):
    check(folder, example, capsys)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_option_file_that_is_left_alone_passes(folder, capsys, path):
    assert check(folder, (yaml.safe_dump(small_options(path)), None), capsys) == 0


def test_the_watch_sees_what_is_run_and_written(tmp_path):
    watch().seen.clear()
    watch().on = True
    try:
        (tmp_path / "canary").touch()
        os.system("true")
    finally:
        watch().on = False
    assert [event for event, *_ in watch().seen] == ["open", "os.system"]
