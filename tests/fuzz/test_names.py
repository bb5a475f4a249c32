"""Names with newlines, control characters and bytes that are no Unicode break no line and no record."""

import importlib
import json
import os

import cv2
import pytest
from conftest import photograph
from derain_helpers import save_network

from nlcl_plugin.archs import ResidualUNet

NAMES = [os.fsdecode(name) for name in (b"two\nlines", b"tab\t,\"'", b"\x1b[31mred\r", b"\xff\xfe", b"\xe2\x80\xae")]
LONG = "雨" * 82 + "x"  # 247 bytes, and four of the ending


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Images of such names in a folder of such a name, one of them broken, a network, and an LMDB of them."""
    root = tmp_path_factory.mktemp("names")
    for number, name in enumerate([*NAMES, LONG]):
        path = root / "in" / NAMES[number % 2] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", photograph(40, 48, seed=number))[1].tobytes())
    (root / "in" / f"broken{NAMES[0]}{NAMES[3]}.png").write_bytes(b"\x89PNG")
    save_network(root / "net_s.pth", ResidualUNet(num_feat=4))
    return root


def run(capsys, name, *arguments):
    """Run a tool; returns its exit code and all it says, of which each line is one that can be printed."""
    code = importlib.import_module(name).main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in [*out.split("\n"), *err.split("\n")])
    return code, out + err


def test_derained_files(root, tmp_path, capsys):
    command = [root / "in", "--output", tmp_path / "out", "--weights", root / "net_s.pth", "--metrics"]
    code, said = run(capsys, "derain", *command, "--save", "montage")
    assert code == 3
    assert r"brokentwo\nlines\udcff\udcfe.png" in said
    entries = [json.loads(line) for line in (tmp_path / "out" / "derain.jsonl").read_text("ascii").splitlines()]
    names = {os.path.join(NAMES[number % 2], f"{name}.png") for number, name in enumerate([*NAMES, LONG])}
    assert {entry["file"] for entry in entries} == names
    assert set(json.loads((tmp_path / "out" / "metrics.json").read_text())["images"]) == names
    assert len(list((tmp_path / "out" / "_montage").glob("*/*.png"))) == len(names)
    code, said = run(capsys, "derain", *command, "--save", "montage")
    assert "0 derained, 6 were there already" in said
