"""A whole training of a restorer alone, on photographs larger than `longest_side`, and everything that takes it."""

import numpy as np
import pytest
import torch
from conftest import photograph
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.data.image_io import read_image, write_image
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.metrics.quality import psnr
from nlcl_plugin.report import write_report
from nlcl_plugin.training.json_log import read_json_lines

STAGE_ONE = ("gan_opt", "relay_opt", "optim_g")


def larger(height, width, **more):
    return photograph(height * 3, width * 3, **more)


SETTINGS = {"longest_side": 100, "adaptive": True, "keep_colours": True}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("alone")
    make_folders(root, draw=larger)  # 144 × 168
    options = tiny_options(**SETTINGS, logger={"print_freq": 1, "save_checkpoint_freq": 100})
    del options["network_g"], options["network_d"]
    options["network_s"] = {"type": "ContextUNet", "num_feat": 16, "num_block": 6}
    options["path"] = {"pretrain_network_s": "real"}
    for key in STAGE_ONE:
        del options["train"][key]
    options["train"].update(total_iter=2, min_mean_rain=0, optim_s={"type": "Adam", "lr": 1e-3})
    options["train"]["restorer_opt"] = {"start_iter": 0, "rounds": [0], "rendered": 0.5}
    write_options(root, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr("sys.argv", ["basicsr", "train", "-opt", "options.yml"])
        assert cli.main(["check", "-opt", "options.yml"]) == 0
        assert cli.main(["train", "-opt", "options.yml"]) == 0
    return root


def test_what_is_trained_derains_as_it_was_validated(root):
    folder = root / "experiments/tiny"
    network = ImageDerainer(folder)
    assert {key: getattr(network.derainer, key) for key in SETTINGS} == SETTINGS
    assert network.derainer.about["label"] == "s"
    (entry,) = read_json_lines(folder / "metrics.jsonl")
    values = []
    for name in ("0.png", "1.png"):
        derained = network.array(read_image(root / "val_rainy" / name))
        for other in ({"longest_side": 0}, {"adaptive": False}, {"keep_colours": False}):
            made = ImageDerainer(folder, **other).array(read_image(root / "val_rainy" / name))
            assert np.abs(derained - made).max() > 0.005  # more than a grey level
        values.append(psnr(np.rint(derained * 255), read_image(root / "val_clean" / name) * 255))
    assert entry["metrics"]["psnr"] == pytest.approx(np.mean(values), abs=0.02)


def test_it_starts_with_the_packaged_weights_and_a_report_shows_the_restorer(root, monkeypatch):
    monkeypatch.chdir(root)
    saved = torch.load(root / "experiments/tiny/models/net_s_2.pth")["params"]
    begin = ImageDerainer("real").derainer.net.state_dict()
    moved = [float((saved[name] - begin[name]).abs().max()) for name in begin]
    assert 0 < max(moved) <= 2.1e-3  # two steps of Adam, 1e-3 each
    page = write_report("experiments/tiny").read_text()
    assert "restorer" in page
    assert "contains no net_" not in page


def test_options_that_nothing_reads_are_refused(root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(root)
    options = tiny_options()
    options["datasets"]["val"]["longest_side"] = 100
    assert cli.main(["check", "-opt", str(write_options(tmp_path, options))]) == 2
    assert "datasets.val.longest_side: is read in training only" in capsys.readouterr().err
    options["datasets"]["train"].update(type="PairedImageDataset", dataroot_lq="val_rainy", dataroot_gt="val_clean")
    options.update(longest_side=100)
    assert cli.main(["check", "-opt", str(write_options(tmp_path, options))]) == 2
    assert "longest_side: PairedImageDataset does not read it" in capsys.readouterr().err


def test_training_crops_are_of_the_smaller_copy_and_each_copy_is_made_once(tmp_path):
    from unpaired_helpers import options

    from nlcl_plugin.data.unpaired_image_dataset import UnpairedImageDataset

    roots = {}
    for kind in ("rainy", "clean"):
        wide = np.zeros((80, 256, 3), np.uint8)
        wide[:, ::2] = 200  # stripes of one pixel: grey in a copy of half the size
        write_image(tmp_path / kind / "a.png", wide)
        roots[kind] = tmp_path / kind
    dataset = UnpairedImageDataset(options({"disk": tuple(roots.values())}, longest_side=128, cache=True, gt_size=32))
    sample = dataset[0]
    torch.testing.assert_close(sample["lq"], torch.full((3, 32, 32), 100 / 255))
    assert {image.shape for image in dataset._cache.values()} == {(40, 128, 3)}
    whole = UnpairedImageDataset(options({"disk": tuple(roots.values())}, phase="val", longest_side=128))[0]
    assert whole["lq"].shape == (3, 80, 256)
