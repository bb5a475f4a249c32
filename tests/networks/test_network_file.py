"""Network files that say what they are, and derainers made of them and of older ones."""

import json
import os

import pytest
import safetensors
import torch
from basicsr.models.base_model import BaseModel
from training_helpers import make_folders, tiny_options, write_options

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.cli import main
from nlcl_plugin.config import option_files
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.networks import weights
from nlcl_plugin.networks.about import describe

RAINY = torch.rand(2, 3, 19, 26, generator=torch.Generator().manual_seed(0))
GENERATOR = {"type": "LayerGenerator", "num_feat": 4, "num_block": 1}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A tiny training: saved in its first stage (at 2), at 4 and at its end (6), with averages and heads."""
    root = tmp_path_factory.mktemp("training")
    make_folders(root)
    options = tiny_options(network_p={"type": "ProjectionHeads", "num_feat": 8})
    sampling = {"taps": [0, 1], "num_image_patches": 4, "num_rain_patches": 4, "patch_size": 8, "search_size": 16}
    options["train"]["layer_opt"] = {"type": "AsymmetricNLCLLoss", "sampling": sampling}
    del options["datasets"]["val"], options["val"]
    write_options(root, options)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["train", "-opt", "options.yml"]) == 0
    return root / "experiments/tiny"


def load(path):
    return torch.load(path, weights_only=True)


def same(net, weights):
    return all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())


# writing --------------------------------------------------------------------------------------------------------------
def test_every_saved_network_says_what_it_is(experiment):
    expected = {
        "g": ("image", {**option_files.load_yaml(str(experiment / "options.yml"))["network_g"], "num_in_ch": 3}),
        "s": ("image", {"type": "ResidualUNet", "num_feat": 8, "num_block": 1, "num_in_ch": 3, "num_out_ch": 3}),
        "d": (None, {"type": "PatchDiscriminator", "num_feat": 8, "num_layers": 2, "antialias": False, "num_in_ch": 3}),
        "p": (None, {"type": "ProjectionHeads", "num_feat": 8, "in_channels": [8, 8]}),
    }
    expected["g"][1]["checkpointing"] = False
    for label, (output, network) in expected.items():
        for name, iteration in (("2", 2), ("4", 4), ("latest", 6)):
            content = load(experiment / f"models/net_{label}_{name}.pth")
            about = content["about"]
            assert about.pop("license")
            assert about.pop("nlcl_plugin")
            assert about == {
                "format": 1,
                "network": network,
                "label": label,
                "output": output,
                "window_size": 1,
                "values": "RGB in [0, 1]",
                "iter": iteration,
            }


def test_stock_basicsr_loads_the_files_and_safetensors_say_the_same(experiment):
    net = ResidualUNet(num_feat=8, num_block=1)
    for key in ("params", "params_ema"):  # as stock BasicSR loads them
        BaseModel({"num_gpu": 0, "is_train": False}).load_network(net, experiment / "models/net_s_4.pth", True, key)
        assert same(net, load(experiment / "models/net_s_4.pth")[key])
    for path in experiment.glob("models/*_latest.pth"):
        with safetensors.safe_open(path.with_suffix(".safetensors"), "pt") as file:
            assert json.loads(file.metadata()["nlcl_plugin"]) == load(path)["about"]
            assert set(file.keys()) == set(load(path)["params"])


# reading --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_alone_derains(experiment, tmp_path, suffix):
    path = tmp_path / f"any name{suffix}"
    path.write_bytes((experiment / f"models/net_s_latest{suffix}").read_bytes())
    derainer = load_derainer(path)
    net = ResidualUNet(num_feat=8, num_block=1)
    net.load_state_dict(load(experiment / "models/net_s_latest.pth")["params_ema"])
    assert torch.equal(derainer(RAINY), net(RAINY))
    assert not derainer.net.training
    assert not any(p.requires_grad for p in derainer.net.parameters())
    assert (derainer.source, derainer.about["iter"], derainer.about["window_size"]) == (path, 6, 1)


def test_a_folder_gives_the_newest_restorer_that_was_trained(experiment, tmp_path):
    assert load_derainer(experiment).source.name == "net_s_latest.pth"
    assert load_derainer(experiment / "models").source.name == "net_s_latest.pth"
    assert load_derainer(experiment, label="g").source.name == "net_g_latest.pth"
    (tmp_path / "models").mkdir()
    (tmp_path / "options.yml").write_bytes((experiment / "options.yml").read_bytes())
    for order, name in enumerate(("net_g_4.pth", "net_g_2.pth", "net_s_2.pth")):
        file = tmp_path / "models" / name
        file.write_bytes((experiment / "models" / name).read_bytes())
        os.utime(file, (order, order))
    assert load_derainer(tmp_path).source.name == "net_g_4.pth"  # net_s_2 is of before its stage began, at 3
    assert load_derainer(tmp_path, label="s").source.name == "net_s_2.pth"


def test_released_weights_derain_as_they_come(shared_data, tmp_path):
    official = shared_data / "official_weights"
    image = load_derainer(official / "latest_net_Back.pth")
    torch.save({"params": image.net.state_dict()}, tmp_path / "back.pth")  # converted, as by versions before `about`
    converted = load_derainer(tmp_path / "back.pth")
    assert (converted.about["label"], converted.about["network"]["layer"]) == ("g", "image")
    assert torch.equal(converted(RAINY), image(RAINY))
    (tmp_path / "any.pth").write_bytes((official / "latest_net_Rain.pth").read_bytes())
    rain = load_derainer(tmp_path / "any.pth")
    assert (rain.about["label"], rain.about["output"]) == ("r", "rain")
    assert torch.equal(rain(RAINY), RAINY - rain.net(RAINY))
    assert rain.net.layer == "rain"


# refusals -------------------------------------------------------------------------------------------------------------
def refusal(path, **arguments):
    with pytest.raises(InputError) as caught:
        load_derainer(path, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_what_is_no_network_file_is_refused(experiment, tmp_path):
    for name in ("net_s_latest.safetensors", "net_s_latest.pth"):
        (tmp_path / name).write_bytes((experiment / "models" / name).read_bytes()[:-99])
        assert refusal(tmp_path / name).startswith(": damaged, or not a file of weights")
    assert refusal(tmp_path / "none.pth").startswith(": no such file or folder; give")
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").startswith(": contains no net_s_*.pth or net_g_*.pth; train first")
    for content, message in (
        ([1, 2], ": expected the weights of a network, but it contains something else"),
        ({"params": {3: torch.ones(1)}}, ": expected the weights of a network under 'params'"),
        ({"params": {}}, ": contains no weights; give"),
        ({"params": ResidualUNet().state_dict()}, ": does not say which network it is of; give"),
    ):
        torch.save(content, tmp_path / "net.pth")
        assert refusal(tmp_path / "net.pth").startswith(message)
    assert refusal(experiment / "training_states/4.state").startswith(": expected the weights of a network, but")


@pytest.mark.parametrize(("label", "what"), [("d", "a discriminator"), ("p", "projection heads")])
def test_networks_that_derain_nothing_are_refused(experiment, label, what):
    assert f": is {what} (" in refusal(experiment / f"models/net_{label}_4.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, ": is of format 2, but this version reads up to 1; upgrade nlcl_plugin"),
        ({"network": {"num_feat": 4}}, ": its entry `about` is damaged"),
        ({"longest_side": "80"}, ": its entry `about` is damaged"),
        ({"longest_side": -1}, ": its entry `about` is damaged"),
        ({"adaptive": 1}, ": its entry `about` is damaged"),
        ({"strength": "1"}, ": its entry `about` is damaged"),
        ({"network": {**GENERATOR, "num_feats": 4}}, "unexpected keyword argument 'num_feats'"),
        ({"network": {**GENERATOR, "num_block": 2}}, ": does not fit the LayerGenerator that {name} is of ("),
        ({"network": {"type": "BasicVSR", "spynet_path": "a.pth"}}, ": its network BasicVSR opens other files"),
    ],
)
def test_what_a_file_says_is_not_believed(tmp_path, changes, message):
    net = LayerGenerator(num_feat=4, num_block=1)
    about = {**describe(GENERATOR, "g", net=net), **changes}
    path = tmp_path / "net.safetensors"
    path.write_bytes(weights.safetensors_bytes(net.state_dict(), {"nlcl_plugin": json.dumps(about)}))
    assert message.format(name=path.name) in refusal(path)
