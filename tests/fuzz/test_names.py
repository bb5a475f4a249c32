"""Names with newlines, control characters and bytes that are no Unicode break no line, no record and no table."""

import csv
import json
import os
import shutil

import cv2
import pytest
import yaml
from conftest import photograph
from derain_helpers import save_network
from hostile import tool
from training_helpers import tiny_options

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.data.lmdb.store import close_environment
from nlcl_plugin.errors import escape

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
    code = tool(name).main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    assert all(line.isprintable() for line in [*out.split("\n"), *err.split("\n")])
    return code, out + err


def rows(path):
    """The lines of a table, each of which is one row."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found = list(csv.DictReader(lines))
    assert len(found) == len(lines) - 1
    return found


def test_derained_files(root, tmp_path, capsys):
    command = [root / "in", "--output", tmp_path / "out", "--weights", root / "net_s.pth", "--metrics"]
    code, said = run(capsys, "derain", *command, "--save", "montage")
    assert code == 3
    assert r"brokentwo\nlines\udcff\udcfe.png" in said
    entries = [json.loads(line) for line in (tmp_path / "out" / "derain.jsonl").read_text("ascii").splitlines()]
    names = {os.path.join(NAMES[number % 2], f"{name}.png") for number, name in enumerate([*NAMES, LONG])}
    assert {entry["file"] for entry in entries} == names
    assert {row["file"] for row in rows(tmp_path / "out" / "metrics.csv")} == {escape(name) for name in names}
    assert set(json.loads((tmp_path / "out" / "metrics.json").read_text())["images"]) == names
    assert len(list((tmp_path / "out" / "_montage").glob("*/*.png"))) == len(names)
    code, said = run(capsys, "derain", *command, "--save", "montage")
    assert "0 derained, 6 were there already" in said


def test_lmdbs(root, tmp_path, capsys):
    path = tmp_path / f"{NAMES[0]}{NAMES[3]}.lmdb"
    code, said = run(capsys, "create_lmdb", "--input", root / "in", "--output", path)
    assert code == 3
    assert r"brokentwo\nlines\udcff\udcfe.png: " in said
    assert len((path / "keys.jsonl").read_text("ascii").splitlines()) == 6
    assert len((path / "meta_info.txt").read_text("ascii").splitlines()) == 6
    shutil.copytree(root / "in", tmp_path / "less")
    shutil.rmtree(tmp_path / "less" / NAMES[0])
    (tmp_path / "less" / f"more{NAMES[2]}.png").write_bytes(b"x")
    code, said = run(capsys, "verify_lmdb", path, "--against", tmp_path / "less")
    assert code == 2
    assert r"two\nlines" in said
    assert r"more\x1b[31mred\r.png: is not in the LMDB" in said
    close_environment(path)


def test_prepared_datasets(root, tmp_path, capsys):
    shutil.copytree(root / "in", tmp_path / "clean")
    folders = ["--rainy", root / "in", "--clean", tmp_path / "clean", "--output", tmp_path / f"out{NAMES[0]}"]
    options = ["--pair-by", "stem", "--keep-twins", "--allow-leakage"]
    code, said = run(capsys, "prepare_rain_dataset", *folders, *options)
    assert code == 3
    assert r"brokentwo\nlines\udcff\udcfe.png" in said
    lines = (tmp_path / f"out{NAMES[0]}" / "manifest.jsonl").read_text("ascii").splitlines()
    assert {json.loads(line)["source"] for line in lines} >= {f"{NAMES[1]}/{NAMES[3]}.png", f"{NAMES[1]}/{LONG}.png"}


def test_reports(root, tmp_path, capsys):
    folder = tmp_path / f"run{NAMES[0]}{NAMES[3]}"
    (folder / "models").mkdir(parents=True)
    options = tiny_options()
    photos = {"name": "photos", "type": "UnpairedImageDataset", "phase": "val", "dataroot_lq": str(tmp_path / "photos")}
    options["datasets"] = {"val": photos}
    shutil.copytree(root / "in" / NAMES[1], tmp_path / "photos")
    (folder / "options.yml").write_text(yaml.safe_dump(options))
    (folder / "losses.jsonl").write_text('{"iter": 1, "l_\\ud800\\n": 1.5, "\\u001b": 2}\n')
    net = LayerGenerator(num_feat=8, num_block=1, layer="residual", num_out_ch=1)
    save_network(folder / "models" / "net_g_1.pth", net, "g")
    code, _ = run(capsys, "report", folder, "--images", 9)
    assert code == 0
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in (NAMES[1], NAMES[3], LONG):
        assert escape(f"photos: {name}.png").replace("'", "&#39;").replace('"', "&#34;") in page
