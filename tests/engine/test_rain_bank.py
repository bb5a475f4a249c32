"""Banks of rain layers, from a trained experiment to a training on them."""

import hashlib
import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs.srresnet_arch import MSRResNet
from basicsr.models import build_model
from basicsr.utils import FileClient, imfrombytes, make_exp_dirs
from conftest import photograph
from training_helpers import make_folders, run, tiny_options, write_options

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.data import PseudoPairDataset, lmdb_create, read_image
from nlcl_plugin.data.lmdb_store import LmdbImages, close_environment
from nlcl_plugin.engine import options as option_files
from nlcl_plugin.engine import rain_bank
from nlcl_plugin.engine.launch import start
from nlcl_plugin.engine.rain_bank import extract_rain_bank
from nlcl_plugin.engine.rain_network import Checkpoint, RainNetwork, find_checkpoint
from nlcl_plugin.engine.run_state import plain_options
from nlcl_plugin.errors import InputError


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Folders of images, and a tiny trained experiment of a residual model with averages, saved at 2 and at the end."""
    root = tmp_path_factory.mktemp("bank")
    make_folders(root, photograph)
    options = tiny_options()
    for dataset in options["datasets"].values():
        dataset.update({key: str(root / value) for key, value in dataset.items() if key.startswith("dataroot")})
    opt = start(str(write_options(root, options)), is_train=True, root=str(root))
    make_exp_dirs(opt)
    option_files.write_options(str(root / "experiments/tiny/options.yml"), plain_options(opt))
    model = build_model(opt)
    for iteration in (1, 2, 3):
        torch.manual_seed(iteration)
        model.feed_data({"lq": torch.rand(2, 3, 32, 32), "gt": torch.rand(2, 3, 32, 32), "lq_path": ["a", "b"]})
        model.optimize_parameters(iteration)
        if iteration == 2:
            model.save(0, 2)
    model.save(-1, -1)
    return root


@pytest.fixture
def tool(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    import extract_rain_layers

    return extract_rain_layers.main


def extract(checkpoint, images, output):
    return extract_rain_bank(checkpoint, str(images), str(output), progress=False, tell=lambda line: None)


def layers(bank):
    """All layers as they are stored, by key."""
    images = LmdbImages(bank)
    found = {key: cv2.imdecode(np.frombuffer(images.get(key), np.uint8), cv2.IMREAD_UNCHANGED) for key in images.keys}
    close_environment(bank)
    return found


def two_branch(folder, change=lambda net: None):
    """Options and weights of an untrained rain network."""
    block = {"type": "LayerGenerator", "layer": "rain", "num_feat": 8, "num_block": 1}
    torch.manual_seed(0)
    net = LayerGenerator(layer="rain", num_feat=8, num_block=1)
    change(net)
    torch.save({"params": net.state_dict()}, folder / "net_r.pth")
    write_options(folder, {"name": "two", "decomposition": "two_branch", "network_r": block}, "two.yml")
    return Checkpoint(option_files.load_yaml(str(folder / "two.yml")), folder / "net_r.pth"), net


def test_the_command_extracts_what_the_averaged_network_takes_out(repository, root, tmp_path):
    rainy = tmp_path / "rainy"
    (rainy / "deep").mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(rainy / "deep" / f"{i}.png"), photograph(40 + i, 51 - i, seed=i))
    (rainy / "broken.png").write_bytes(b"no image")
    bank = tmp_path / "bank.lmdb"
    command = [sys.executable, repository / "tools/extract_rain_layers.py", "experiments/tiny"]
    command += ["--input", rainy, "--output", bank]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{bank}: 4 rain layers, ")
    assert lines[-2] == "1 could not be read and were skipped:"
    assert lines[-1].startswith("  broken.png: cannot be decoded")

    weights = root / "experiments/tiny/models/net_g_latest.pth"
    net = LayerGenerator(layer="residual", num_out_ch=1, num_feat=8, num_block=1)
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
    assert (facts["experiment"], facts["images"]) == ("tiny", 4)
    assert facts["mean_rain"] == pytest.approx(total / pixels)
    assert facts["max_rain"] == max(layer.max() for layer in layers(bank).values()) / 255
    assert cv2.imread(str(bank / "rain_bank.png")).shape[1] > 1000
    assert (bank / "meta_info.txt").read_text().splitlines()[0] == "deep/0.png (40,51,1) 1"
    assert extract(find_checkpoint(root / "experiments/tiny"), rainy, bank).already_made
    with pytest.raises(InputError, match="--overwrite"):
        extract(find_checkpoint(root / "experiments/tiny", "2"), rainy, bank)


def test_an_lmdb_of_rainy_images_gives_what_their_folder_gives(root, tmp_path):
    checkpoint = find_checkpoint(root / "experiments/tiny")
    lmdb_create.create_lmdb(root / "rainy", tmp_path / "rainy.lmdb", progress=False)
    assert extract(checkpoint, tmp_path / "rainy.lmdb", tmp_path / "one.lmdb").values == 3
    extract(checkpoint, root / "rainy", tmp_path / "two.lmdb")
    one, two = layers(tmp_path / "one.lmdb"), layers(tmp_path / "two.lmdb")
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[key], two[key]) for key in one)
    assert extract(checkpoint, root / "rainy", tmp_path / "two.lmdb").already_made
    close_environment(tmp_path / "rainy.lmdb")


def test_an_interrupted_run_is_gone_on_with(root, tmp_path, monkeypatch):
    checkpoint = find_checkpoint(root / "experiments/tiny")
    extract(checkpoint, root / "clean", tmp_path / "whole.lmdb")
    monkeypatch.setattr(rain_bank, "BATCH_IMAGES", 1)
    extracted = []

    def rain_of(self, image, source, real=RainNetwork.rain_of):
        extracted.append(source)
        if len(extracted) == 4:
            raise KeyboardInterrupt
        return real(self, image, source)

    monkeypatch.setattr(RainNetwork, "rain_of", rain_of)
    path = tmp_path / "bank.lmdb"
    with pytest.raises(KeyboardInterrupt):
        extract(checkpoint, root / "clean", path)
    assert not path.exists()
    said = []
    extract_rain_bank(checkpoint, str(root / "clean"), str(path), progress=False, tell=said.append)
    assert "going on with image" in said[0]
    for name in ("rain_bank.json", "rain_bank.png", "keys.jsonl", "meta_info.txt"):
        assert (path / name).read_bytes() == (tmp_path / "whole.lmdb" / name).read_bytes()
    before, after = layers(tmp_path / "whole.lmdb"), layers(path)
    assert all(np.array_equal(before[key], after[key]) for key in before)


def test_a_rain_network_is_asked_for_the_rain_itself_in_colour(root, tmp_path, tool, capsys):
    _, net = two_branch(tmp_path)
    command = ["--weights", str(tmp_path / "net_r.pth"), "-opt", str(tmp_path / "two.yml")]
    assert tool([*command, "--input", str(root / "rainy"), "--output", str(tmp_path / "b.lmdb")]) == 0
    assert "3 rain layers" in capsys.readouterr().out
    for key, stored in layers(tmp_path / "b.lmdb").items():
        image = torch.from_numpy(read_image(root / "rainy" / f"{key}.png")).permute(2, 0, 1)[None]
        with torch.no_grad():
            expected = net(image)[0].clamp(0, 1).permute(1, 2, 0)
        assert (expected == 0).any()  # negative values are dropped
        np.testing.assert_allclose(stored[..., ::-1] / 255, expected, atol=0.6 / 255)


def test_the_checkpoint_is_the_newest_or_the_one_asked_for(root, tmp_path):
    assert find_checkpoint(root / "experiments/tiny").weights.name == "net_g_latest.pth"
    assert find_checkpoint(root / "experiments/tiny", "2").weights.name == "net_g_2.pth"
    with pytest.raises(InputError, match=r"no net_g_7\.pth, but of 2, latest; correct --checkpoint"):
        find_checkpoint(root / "experiments/tiny", "7")
    with pytest.raises(InputError, match=r"has no options\.yml; expected the folder of a training"):
        find_checkpoint(tmp_path)
    (tmp_path / "options.yml").write_bytes((root / "experiments/tiny/options.yml").read_bytes())
    with pytest.raises(InputError, match=r"holds no net_g_\*\.pth; train first"):
        find_checkpoint(tmp_path)


def silent(net):
    torch.nn.init.zeros_(net.last.weight)
    torch.nn.init.zeros_(net.last.bias)


def broken(net):
    torch.nn.init.constant_(net.last.bias, float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (silent, r"the rain layers are empty, their mean is 0\.00000, .*train longer"),
        (broken, r"none of its 3 images can be read; .*output is not finite; give another checkpoint"),
    ],
)
def test_a_bank_without_rain_is_refused_and_leaves_nothing(root, tmp_path, change, message):
    checkpoint, _ = two_branch(tmp_path, change)
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(InputError, match=message) as caught:
            extract(checkpoint, root / "rainy", tmp_path / "bank.lmdb")
        assert "\n" not in str(caught.value)
        assert sorted(tmp_path.iterdir()) == before


def test_bad_usage_and_foreign_networks_are_one_line(root, tmp_path, tool, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    two_branch(tmp_path)
    write_options(tmp_path, {"network_g": {"type": "LayerGenerator", "layers": 3}}, "wrong.yml")
    write_options(tmp_path, {"network_g": {"type": "LayerGenerator", "num_feat": 4}}, "other.yml")
    write_options(tmp_path, {"network_s": {"type": "ResidualUNet"}}, "none.yml")
    write_options(tmp_path, {"network_g": {"type": "MSRResNet", "num_feat": 4, "num_block": 1}}, "larger.yml")
    torch.save({"params": MSRResNet(num_feat=4, num_block=1).state_dict()}, "larger.pth")
    weights = ["--weights", "net_r.pth", "-opt"]
    images = ["--input", str(root / "rainy"), "--output", "bank.lmdb"]
    for arguments, words in (
        (images, "expected EXPERIMENT"),
        (["x", *weights, "two.yml", *images], "expected EXPERIMENT"),
        (["--weights", "net_r.pth", *images], "--weights and -opt go together"),
        (["x", *images], "x: has no options.yml"),
        ([*weights, "wrong.yml", *images], "network_g: cannot be built"),
        ([*weights, "other.yml", *images], "net_r.pth: does not fit network_g"),
        ([*weights, "none.yml", *images], "network_g: expected a block"),
        (["--weights", "no.pth", "-opt", "two.yml", *images], "no.pth: missing"),
        (["--weights", "larger.pth", "-opt", "larger.yml", *images], "a network that keeps the size"),
        ([*weights, "two.yml", "--input", "nowhere", "--output", "bank.lmdb"], "nowhere: no such folder"),
        ([*weights, "two.yml", "--input", str(root / "rainy"), "--output", "bank"], "ends in .lmdb"),
    ):
        assert tool(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
    assert not [path for path in tmp_path.iterdir() if "lmdb" in path.name]


def from_bank(repository, root, bank):
    """The command of the option file, with tiny sizes."""
    settings = ["demo_data=~", "datasets:train:gt_size=16", "datasets:train:dataset_enlarge_ratio=4"]
    settings += [f"datasets:train:dataroot_gt={root / 'clean'}", f"datasets:train:dataroot_rain={bank}"]
    settings += [f"datasets:val:dataroot_lq={root / 'val_rainy'}", f"datasets:val:dataroot_gt={root / 'val_clean'}"]
    settings += ["network_g:num_feat=8", "logger:print_freq=1", "logger:save_checkpoint_freq=2"]
    return ["-opt", repository / "options/restorer_from_bank.yml", "--force_yml", *settings]


def test_a_stock_model_trains_on_a_bank_as_the_option_file_says(repository, root, tmp_path):
    bank = tmp_path / "bank.lmdb"
    extract(find_checkpoint(root / "experiments/tiny"), root / "rainy", bank)
    done = run(tmp_path, "train", *from_bank(repository, root, bank), "train:total_iter=2")
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    experiment = tmp_path / "experiments/restorer_from_bank"
    losses = [json.loads(line)["l_pix"] for line in (experiment / "losses.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert json.loads((experiment / "summary.json").read_text())["images"] == 2


@pytest.mark.slow
def test_a_training_on_a_bank_goes_on_bit_for_bit(repository, root, tmp_path):
    bank = tmp_path / "bank.lmdb"
    extract(find_checkpoint(root / "experiments/tiny"), root / "rainy", bank)
    command = [*from_bank(repository, root, bank), "datasets:train:num_worker_per_gpu=1"]
    weights = []
    for name, runs in (("straight", [4]), ("resumed", [2, 4])):
        for total in runs:
            done = run(tmp_path, "train", "--auto_resume", *command, f"name={name}", f"train:total_iter={total}")
            assert done.returncode == 0, done.stderr
        assert (", iteration 2." in done.stderr) == (name == "resumed")
        weights.append(torch.load(tmp_path / f"experiments/{name}/models/net_g_4.pth", weights_only=True))
    for kind in ("params", "params_ema"):
        assert all(torch.equal(value, weights[1][kind][key]) for key, value in weights[0][kind].items())


def test_unknown_keys_and_missing_banks_are_refused_before_a_training(repository, root, tmp_path):
    def refused(**changes):
        options = option_files.load_yaml(str(repository / "options/restorer_from_bank.yml"))
        options.update(demo_data=None)
        options["datasets"]["train"].update(dataroot_gt=str(root / "clean"), dataroot_rain=str(root / "val_rainy"))
        options["datasets"]["train"].update(changes)
        options["datasets"].pop("val")
        with pytest.raises(InputError) as caught:
            start(str(write_options(tmp_path, options)), is_train=True, root=str(tmp_path))
        return str(caught.value)

    assert refused(rain_fre=0.2) == "datasets.train.rain_fre: unknown option; did you mean 'rain_free'?"
    assert refused(dataroot_rain="no.lmdb").startswith("datasets.train.dataroot_rain: no.lmdb: no such folder")
    assert refused(screen=2).startswith("datasets.train.screen: got 2")


def test_a_bank_is_what_the_dataset_lays_on_clean_images(root, tmp_path):
    bank = tmp_path / "bank.lmdb"
    extract(find_checkpoint(root / "experiments/tiny"), root / "rainy", bank)
    plain = {"gain": [1, 1], "resize": [1, 1], "flip": False, "threshold": 0, "rain_free": 0, "screen": 1}
    dataset = PseudoPairDataset(
        {"phase": "train", "dataroot_gt": str(root / "clean"), "dataroot_rain": str(bank), "gt_size": 48, **plain}
    )
    stored = layers(bank)
    for sample in dataset:
        clean = sample["gt"].numpy()
        rain = (sample["lq"].numpy() - clean) / np.maximum(1 - clean, 1e-3)
        layer = stored[sample["lq_path"].rpartition("/")[2]] / 255
        best = min(np.abs(rain - layer[:, x : x + 48]).max() for x in range(layer.shape[1] - 47))
        assert best < 2e-3
