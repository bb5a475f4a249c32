"""A training by the command on a pretended device, and all that is made of it there."""

import json

from pretended_device import DeviceTensor
from report_helpers import Page
from training_helpers import tiny_options, write_options

from nlcl_plugin import cli
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.export import export
from nlcl_plugin.inference.rain_bank import extract_rain_bank
from nlcl_plugin.report import write_report
from nlcl_plugin.training.json_log import read_json_lines


def test_a_training_with_loader_validation_and_pictures_and_its_report_bank_and_exports(folder, device, monkeypatch):
    monkeypatch.setattr("nlcl_plugin.inference.derain._find_device", lambda _: device)
    options = tiny_options(network_p={"type": "ProjectionHeads", "num_feat": 8})
    options["datasets"]["train"] |= {"prefetch_mode": "cpu", "num_prefetch_queue": 1}
    sampling = {"taps": [0], "num_image_patches": 4, "num_rain_patches": 6, "patch_size": 6, "search_size": 12}
    options["train"]["layer_opt"] = {"type": "AsymmetricNLCLLoss", "loss_weight": 0.1, "sampling": sampling}
    options["train"] |= {"total_iter": 3, "restorer_opt": {"start_iter": 2}}
    options["val"] = {"val_freq": 2, "save_img": True}
    options["logger"]["print_freq"] = 1
    write_options(folder, options)
    assert cli.main(["train", "-opt", "options.yml"]) == 0
    trained = folder / "experiments/tiny"
    assert [entry["iter"] for entry in read_json_lines(trained / "losses.jsonl")] == [1, 2, 3]
    assert [set(entry["metrics"]) for entry in read_json_lines(trained / "metrics.jsonl")] == [{"psnr", "ssim"}] * 2
    assert len([*trained.glob("visualization/pairs/*/*.png")]) == 4  # of two images at two validations

    network = ImageDerainer(trained)
    assert all(isinstance(p, DeviceTensor) for p in network.derainer.net.parameters())
    page = Page(write_report(trained, images=1).read_text(encoding="utf-8"))
    assert page.images("restorer: R")
    assert "1: differs by 0.0000 (root mean square)" in page.text  # a query's nearest neighbour is itself
    extract_rain_bank(network, str(folder / "rainy"), str(folder / "bank.lmdb"))
    assert json.loads((folder / "bank.lmdb/rain_bank.json").read_text())["images"] == 3
    for name in ("net.safetensors", "net.onnx"):
        export(network.derainer, folder / name)
    assert all(isinstance(p, DeviceTensor) for p in network.derainer.net.parameters())
