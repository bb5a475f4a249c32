"""Banks of rain layers, from a trained experiment to a training on them."""

import hashlib
import json

import cv2
import numpy as np
import pytest
import torch
from basicsr.utils import FileClient, imfrombytes
from conftest import photograph
from extract_rain_layers import main as tool
from training_helpers import make_folders

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.data import read_image
from nlcl_plugin.data.lmdb import create as lmdb_create
from nlcl_plugin.data.lmdb.store import LmdbImages, close_environment
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference import rain_bank
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.rain_bank import extract_rain_bank
from nlcl_plugin.networks.about import describe

RESIDUAL = {"layer": "residual", "num_out_ch": 1, "num_feat": 8, "num_block": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of images, and the generators of a residual model with averages, as saved at 2 and at its end, 3."""
    root = tmp_path_factory.mktemp("bank")
    make_folders(root)
    (root / "experiments/tiny/models").mkdir(parents=True)
    for name, iteration in (("2", 2), ("latest", 3)):
        torch.manual_seed(iteration)
        net, average = (LayerGenerator(**RESIDUAL) for _ in range(2))
        about = describe({"type": "LayerGenerator", **RESIDUAL}, "g", net=net, iteration=iteration)
        content = {"params": net.state_dict(), "params_ema": average.state_dict(), "about": about}
        torch.save(content, root / f"experiments/tiny/models/net_g_{name}.pth")
    return root


def network(weights, **which):
    return ImageDerainer(weights, device="cpu", **which)


def extract(network, images, output):
    return extract_rain_bank(network, str(images), str(output))


def layers(bank):
    """All layers as they are stored, by key."""
    images = LmdbImages(bank)
    found = {key: cv2.imdecode(np.frombuffer(images.read(key), np.uint8), cv2.IMREAD_UNCHANGED) for key in images.names}
    close_environment(bank)
    return found


def two_branch(folder, change=lambda net: None):
    """The file of an untrained rain network."""
    block = {"type": "LayerGenerator", "layer": "rain", "num_feat": 8, "num_block": 1}
    torch.manual_seed(0)
    net = LayerGenerator(layer="rain", num_feat=8, num_block=1)
    change(net)
    torch.save({"params": net.state_dict(), "about": describe(block, "r", net=net)}, folder / "net_r.pth")
    return folder / "net_r.pth", net


def test_the_command_extracts_what_the_averaged_network_takes_out(root, tmp_path, capsys, monkeypatch):
    rainy = tmp_path / "rainy"
    (rainy / "deep").mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(rainy / "deep" / f"{i}.png"), photograph(40 + i, 51 - i, seed=i))
    (rainy / "broken.png").write_bytes(b"no image")
    bank = tmp_path / "bank.lmdb"
    monkeypatch.chdir(root)
    assert tool(["experiments/tiny", "--input", str(rainy), "--output", str(bank)]) == 3
    printed = capsys.readouterr().out
    assert f"{bank}: 4 rain layers, " in printed
    assert "  broken.png: cannot be decoded" in printed

    weights = root / "experiments/tiny/models/net_g_latest.pth"
    net = LayerGenerator(**RESIDUAL)
    net.load_state_dict(torch.load(weights, weights_only=True)["params_ema"])
    total = pixels = 0
    client = FileClient("lmdb", db_paths=str(bank))  # BasicSR's own reader
    for i in range(4):
        image = torch.from_numpy(read_image(rainy / "deep" / f"{i}.png")).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = (image - net(image))[0, 0].clamp(0, 1)
        stored = imfrombytes(client.get(f"deep/{i}"), flag="unchanged")
        assert stored.dtype == np.uint8
        np.testing.assert_allclose(stored / 255, expected, atol=0.6 / 255)
        total, pixels = total + stored.sum() / 255, pixels + stored.size
    facts = json.loads((bank / "rain_bank.json").read_text())
    assert facts["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (facts["weights"], facts["iter"]) == ("experiments/tiny/models/net_g_latest.pth", 3)
    assert (facts["label"], facts["images"]) == ("g", 4)
    assert facts["mean_rain"] == pytest.approx(total / pixels)
    assert facts["max_rain"] == max(layer.max() for layer in layers(bank).values()) / 255
    assert cv2.imread(str(bank / "rain_bank.png")).shape[1] > 1000
    assert (bank / "meta_info.txt").read_text().splitlines()[0] == "deep/0.png (40,51,1) 1"
    assert extract(network(root / "experiments/tiny"), rainy, bank).already_made
    with pytest.raises(InputError, match="--overwrite"):
        extract(network(root / "experiments/tiny/models/net_g_2.pth"), rainy, bank)


def test_an_lmdb_of_rainy_images_gives_what_their_folder_gives(root, tmp_path):
    tiny = network(root / "experiments/tiny")
    lmdb_create.create_lmdb(root / "rainy", tmp_path / "rainy.lmdb")
    assert extract(tiny, tmp_path / "rainy.lmdb", tmp_path / "one.lmdb").values == 3
    extract(tiny, root / "rainy", tmp_path / "two.lmdb")
    one, two = layers(tmp_path / "one.lmdb"), layers(tmp_path / "two.lmdb")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert extract(tiny, root / "rainy", tmp_path / "two.lmdb").already_made
    close_environment(tmp_path / "rainy.lmdb")


def test_an_interrupted_run_is_gone_on_with(root, tmp_path, monkeypatch, capsys):
    tiny = network(root / "experiments/tiny")
    extract(tiny, root / "clean", tmp_path / "whole.lmdb")
    monkeypatch.setattr(rain_bank, "BATCH_IMAGES", 1)
    extracted = []

    def rain_of(network, image, real=rain_bank.rain_of):
        extracted.append(image)
        if len(extracted) == 4:
            raise KeyboardInterrupt
        return real(network, image)

    monkeypatch.setattr(rain_bank, "rain_of", rain_of)
    path = tmp_path / "bank.lmdb"
    with pytest.raises(KeyboardInterrupt):
        extract(tiny, root / "clean", path)
    assert not path.exists()
    extract(tiny, root / "clean", path)
    assert "continued at image" in capsys.readouterr().err
    for name in ("rain_bank.json", "rain_bank.png", "keys.jsonl", "meta_info.txt"):
        assert (path / name).read_bytes() == (tmp_path / "whole.lmdb" / name).read_bytes()
    before, after = layers(tmp_path / "whole.lmdb"), layers(path)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_rain_network_is_asked_for_the_rain_itself_in_colour(root, tmp_path, capsys):
    _, net = two_branch(tmp_path)
    assert (
        tool([str(tmp_path / "net_r.pth"), "--input", str(root / "rainy"), "--output", str(tmp_path / "b.lmdb")]) == 0
    )
    assert "3 rain layers" in capsys.readouterr().out
    for key, stored in layers(tmp_path / "b.lmdb").items():
        image = torch.from_numpy(read_image(root / "rainy" / f"{key}.png")).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = net(image)[0].clamp(0, 1).permute(1, 2, 0)
        assert (expected == 0).any()  # negative values are dropped
        np.testing.assert_allclose(stored[..., ::-1] / 255, expected, atol=0.6 / 255)


def test_a_bank_without_rain_is_refused_and_leaves_nothing(root, tmp_path):
    weights, _ = two_branch(tmp_path, lambda net: [torch.nn.init.zeros_(p) for p in net.last.parameters()])
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(InputError, match=r"the rain layers are empty, their mean is 0\.00000, .*train longer"):
            extract(network(weights), root / "rainy", tmp_path / "bank.lmdb")
        assert sorted(tmp_path.iterdir()) == before


def test_bad_usage_is_one_line(root, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_branch(tmp_path)
    images = ["--input", str(root / "rainy"), "--output", "bank.lmdb"]
    for arguments, words in (
        ([str(tmp_path), *images], "contains no net_r_*.pth or net_g_*.pth; train first"),
        (["net_r.pth", "--label", "g", *images], "net_r.pth: is net_r, but net_g is needed"),
        (["net_r.pth", "--input", "nowhere", "--output", "bank.lmdb"], "nowhere: no such folder"),
        (["net_r.pth", "--input", str(root / "rainy"), "--output", "bank"], "ends in .lmdb"),
    ):
        assert tool(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if "lmdb" in path.name]
