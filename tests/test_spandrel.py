"""Our network files in spandrel's own loader."""

import pytest
import torch
from basicsr.models import build_model

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.data import read_image
from nlcl_plugin.inference.derainer import load_derainer

spandrel = pytest.importorskip("spandrel")
from nlcl_plugin import spandrel_support  # noqa: E402  it needs spandrel

BLOCKS = [
    {"type": "LayerGenerator", "num_feat": 4, "num_block": 1, "layer": "rain"},
    {"type": "LayerGenerator", "num_feat": 4, "num_block": 3, "layer": "residual", "num_out_ch": 1},
    {"type": "ResidualUNet", "num_feat": 4, "num_block": 3},
    {"type": "ContextUNet", "num_feat": 4, "num_block": 3, "num_late": 2, "num_stat": 5},
    {"type": "SimpleGateUNet", "num_feat": 4, "enc_blocks": [1, 0, 2], "middle_blocks": 2, "dec_blocks": [0, 1, 1]},
]
TILING = {
    "LayerGenerator": spandrel.ModelTiling.INTERNAL,
    "ResidualUNet": spandrel.ModelTiling.SUPPORTED,
    "ContextUNet": spandrel.ModelTiling.INTERNAL,
    "SimpleGateUNet": spandrel.ModelTiling.DISCOURAGED,
}
SHAPES = [(1, 3, 1, 1), (1, 3, 33, 21), (2, 3, 16, 50)]


@pytest.fixture
def loader():
    """A loader of spandrel's own architectures and ours, apart from those of other tests."""
    registry = spandrel.MAIN_REGISTRY.copy()
    spandrel_support.install(registry)
    before = len(registry)
    spandrel_support.install(registry)  # a second time changes nothing
    assert len(registry) == before
    return spandrel.ModelLoader(registry=registry)


def saved(folder, block, label="g"):
    """A file as a training saves it, of a network without zeros, which would hide faults."""
    options = {
        "num_gpu": 0, "dist": False, "is_train": True, "model_type": "SRModel", "network_g": block,
        "path": {"models": str(folder)},
        "train": {
            "optim_g": {"type": "Adam", "lr": 1e-3}, "scheduler": {"type": "MultiStepLR", "milestones": [5]},
            "pixel_opt": {"type": "L1Loss"}, "total_iter": 1, "ema_decay": 0.5,
        },
    }  # fmt: skip
    model = build_model(options)
    with torch.no_grad():
        for parameter in (*model.net_g.parameters(), *model.net_g_ema.parameters()):
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.opt[f"network_{label}"] = block
    model.save_network([model.net_g, model.net_g_ema], f"net_{label}", -1, ["params", "params_ema"])
    return folder / f"net_{label}_latest.pth"


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: "-".join(str(value) for value in block.values()))
def test_a_loaded_model_derains_as_ours_does(loader, tmp_path, block):
    torch.manual_seed(0)
    path = saved(tmp_path, block, "r" if block.get("layer") == "rain" else "g")
    model = loader.load_from_file(path)
    assert [one.architecture.name for one in loader.registry if one.detect(model.model.state_dict())] == [block["type"]]
    derainer = load_derainer(path)
    for shape in SHAPES:
        rainy = torch.rand(shape)
        torch.testing.assert_close(model(rainy), derainer(rainy).clamp(0, 1))
    assert type(model.model).__name__ == model.architecture.name == block["type"]
    assert (model.purpose, model.scale, model.input_channels, model.output_channels) == ("Restoration", 1, 3, 3)
    assert model.size_requirements.none
    assert model.tiling == TILING[block["type"]]  # only networks without statistics of the image


def test_a_generator_that_does_not_say_its_layer_is_not_guessed(loader, tmp_path):
    torch.save({"params": LayerGenerator(num_feat=4, num_block=1, layer="residual").state_dict()}, tmp_path / "g.pth")
    with pytest.raises(spandrel.UnsupportedModelError, match="does not say which layer it makes"):
        loader.load_from_file(tmp_path / "g.pth")
    grey = LayerGenerator(num_feat=4, num_block=1, layer="residual", num_out_ch=1)
    torch.save({"params": grey.state_dict()}, tmp_path / "grey.pth")
    assert loader.load_from_file(tmp_path / "grey.pth").model.layer == "residual"


@pytest.mark.parametrize(("name", "layer"), [("Back", "image"), ("Rain", "rain")])
def test_released_weights_load_as_they_come_and_in_half_precision(loader, shared_data, tmp_path, name, layer):
    path = shared_data / "official_weights" / f"latest_net_{name}.pth"
    derainer = load_derainer(path)
    torch.save({"params": derainer.net.state_dict()}, tmp_path / "converted.pth")
    image = read_image(shared_data / "realrain_eg" / "rainy" / "Eg1.JPG")[100:148, 200:264]
    rainy = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    expected = derainer(rainy).clamp(0, 1)
    for file in (path, tmp_path / "converted.pth"):
        model = loader.load_from_file(file)
        assert model.tags == ["32nf", layer]
        torch.testing.assert_close(model(rainy), expected)
    with pytest.raises(spandrel.UnsupportedDtypeError):
        model.bfloat16()
    assert (model.half()(rainy.half()).float() - expected).abs().max() * 255 < 3
