import os
import random
import re

import numpy as np
import pytest

from nlcl_plugin.data.lmdb.encode import Cut
from nlcl_plugin.data.lmdb.keys import Record, from_line, keys_of, read_records, to_line
from nlcl_plugin.errors import InputError

NASTY = [*"aA= .é雨😀\\~\n\udcff", "_s001", "==", "=2E", "/x", "(1,1,3) 1", "png"]


def names_of_all_sorts(count=3000):
    rng = random.Random(0)
    endings = [".png", ".PNG", ".jpg"]
    names = {"".join(rng.choices(NASTY, k=rng.randint(1, 6))).strip("/") + rng.choice(endings) for _ in range(count)}
    return sorted(name for name in names if not name.startswith("."))


def name_by_hand(key, names):
    """What a reader of the documentation would make of a key: the bytes of the name, and the ending if it has one."""
    stem, _, ending = key.partition("==")
    stem = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), stem.encode())
    found = [name for name in names if os.path.splitext(os.fsencode(name))[0] == stem]
    return [name for name in found if not ending or name.endswith(f".{ending}")]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["a/001.png", "b/001.png", "x-y_(2).JPG"], ["a/001", "b/001", "x-y_(2)"]),
        (["v1.2/a b.png", "é.png", "a=b.png"], ["v1=2E2/a=20b", "=C3=A9", "a=3Db"]),
        (["a.jpg", "a.png", "b.png", "c/a.png"], ["a==jpg", "a==png", "b", "c/a"]),
        (["a.PNG", "a.png", "A.png"], ["a==PNG", "a==png", "A"]),
    ],
)
def test_keys_are_names_without_what_stock_readers_cannot_take(names, keys):
    assert keys_of(names) == keys


def test_every_name_gets_a_key_of_its_own_that_stock_readers_take():
    names = names_of_all_sorts()
    keys = keys_of(names)
    assert len(set(keys)) == len(names) > 2000
    for name, key in zip(names[::7], keys[::7], strict=True):
        assert name_by_hand(key, names) == [name]
    for key in keys:
        line = f"{key}.png (4,5,3) 1\n"
        assert key.isascii()
        assert line.split(".")[0] == key
        assert line.split() == [f"{key}.png", "(4,5,3)", "1"]


def test_names_too_long_for_lmdb_are_cut_and_hashed():
    long = ["雨" * 84 + ".png", "雨" * 83 + "雪.png", "d/" * 250 + "x.png", "d/" * 250 + "y.png"]
    keys = keys_of(long)
    assert len(set(keys)) == 4
    assert all(len(f"{key}_s99999") <= 511 for key in keys)
    assert keys_of(long[:1]) == keys[:1]  # whatever else is in the folder, so that pairs stay pairs


def test_sub_images_of_different_images_never_share_a_key():
    keys = keys_of(sorted({*names_of_all_sorts(500), "a.png", "a_s001.png", "a_s001_s001.png"}))
    numbered = [f"{key}_s{number:03d}" for key in keys for number in (1, 2, 999, 1000, 1001)]
    assert len(set(numbered)) == len(numbered)


@pytest.mark.parametrize("box", [None, (0, 240, 480, 480)])
def test_records_come_back_and_torn_lines_are_noticed(tmp_path, box):
    record = Record("a_s001", "a\udcff\n.png", box, 480, 480, 3, 5, "0" * 64)
    line = to_line(record)
    assert line.count(b"\n") == 1
    (tmp_path / "keys.jsonl").write_bytes(line * 2)
    assert list(read_records(tmp_path)) == [record, record]
    for length in range(len(line)):
        with pytest.raises(ValueError, match=r"."):
            from_line(line[:length])
    (tmp_path / "keys.jsonl").write_bytes(line + b'{"key": 1}\n')
    with pytest.raises(InputError, match=r"keys\.jsonl: line 2 is damaged"):
        list(read_records(tmp_path))


def starts_by_basicsr(length, crop, step, threshold):
    """As in BasicSR's scripts/data_preparation/extract_subimages.py."""
    space = np.arange(0, length - crop + 1, step)
    if length - (space[-1] + crop) > threshold:
        space = np.append(space, length - crop)
    return space.tolist()


@pytest.mark.parametrize("threshold", [0, 3])
@pytest.mark.parametrize("step", [1, 3, 5, 8])
def test_cuts_are_those_of_basicsr(step, threshold):
    cut = Cut(5, step, threshold)
    for height in range(5, 25):
        for width in (5, 6, 13, 24):
            tops, lefts = (starts_by_basicsr(length, 5, step, threshold) for length in (height, width))
            assert cut.boxes(height, width) == [(top, left, 5, 5) for top in tops for left in lefts]
