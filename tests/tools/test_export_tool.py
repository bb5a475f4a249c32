"""Networks exported by the command and run by the runtimes they are for."""

import json
import re
import sys

import numpy as np
import pytest
import safetensors.torch
import torch
from basicsr.archs.swinir_arch import SwinIR
from export import main as tool

from nlcl_plugin.archs import ContextUNet, LayerGenerator, ResidualUNet, SimpleGateUNet
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference import export as exporting
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.networks.about import describe

pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BLOCKS = {
    "image": {"type": "LayerGenerator", "num_feat": 4, "num_block": 1},
    "residual": {"type": "LayerGenerator", "num_feat": 4, "num_block": 1, "layer": "residual", "num_out_ch": 1},
    "rain": {"type": "LayerGenerator", "num_feat": 4, "num_block": 1, "layer": "rain"},
    "unet": {"type": "ResidualUNet", "num_feat": 4, "num_block": 1},
    "context": {"type": "ContextUNet", "num_feat": 4, "num_block": 1, "num_late": 1, "num_stat": 4},
    "gate": {"type": "SimpleGateUNet", "num_feat": 4, "enc_blocks": [1], "middle_blocks": 1, "dec_blocks": [1]},
}
ARCHS = {net.__name__: net for net in (ContextUNet, LayerGenerator, ResidualUNet, SimpleGateUNet)}
SHAPES = [(1, 3, 1, 1), (1, 3, 1, 6), (1, 3, 31, 45), (2, 3, 18, 7), (3, 3, 64, 40)]  # not those of the tool's check


def arguments_of(block):
    return {key: value for key, value in block.items() if key != "type"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of each network, with no weight at zero: some are initialised so, which would hide faults."""
    folder = tmp_path_factory.mktemp("weights")
    for name, block in BLOCKS.items():
        torch.manual_seed(0)
        net = ARCHS[block["type"]](**arguments_of(block))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        save(folder / f"{name}.pth", block, net, "r" if name == "rain" else "s")
    return folder


def save(path, block, net, label="s"):
    torch.save({"params": net.state_dict(), "about": describe(block, label, net=net, iteration=70)}, path)
    return path


def onnx_run(path, dtype=np.float32):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda rainy: torch.from_numpy(session.run(None, {"rainy": rainy.numpy().astype(dtype)})[0])


def check(run, path, tolerance):
    derainer = load_derainer(path)
    for seed, shape in enumerate(SHAPES):
        rainy = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(run(rainy), derainer(rainy), atol=tolerance, rtol=0)


@pytest.mark.parametrize(
    "name", [name if name == "residual" else pytest.param(name, marks=pytest.mark.slow) for name in BLOCKS]
)
def test_onnx_gives_what_pytorch_gives_at_any_size(weights, tmp_path, name):
    assert 0 <= exporting.export(load_derainer(weights / f"{name}.pth"), tmp_path / "net.onnx") < 1e-5
    check(onnx_run(tmp_path / "net.onnx"), weights / f"{name}.pth", 1e-5)
    check(load_derainer(tmp_path / "net.onnx"), weights / f"{name}.pth", 1e-5)
    (tmp_path / "damaged.onnx").write_bytes((tmp_path / "net.onnx").read_bytes()[:-99])
    with pytest.raises(InputError, match="damaged, or not made by basicsr export"):
        load_derainer(tmp_path / "damaged.onnx")


@pytest.mark.parametrize("half", [False, True])
def test_safetensors_are_weights_that_derain_again(weights, tmp_path, half):
    exporting.export(load_derainer(weights / "rain.pth"), tmp_path / "net.safetensors", half=half)
    stored = safetensors.torch.load_file(tmp_path / "net.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16 if half else torch.float32}
    assert load_derainer(tmp_path / "net.safetensors").about == load_derainer(weights / "rain.pth").about
    check(load_derainer(tmp_path / "net.safetensors"), weights / "rain.pth", 1e-2 if half else 0)


def test_the_command_writes_a_whole_annotated_model(repository, weights, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--half", "--license", "CC-BY-4.0", "--opset", "20"]
    assert tool([str(weights / "unet.pth"), "--output", "net.onnx", *options]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert re.search(r"net.onnx: ResidualUNet of .*unet.pth, [\d.]+ kB", out)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    check(onnx_run(tmp_path / "net.onnx"), weights / "unet.pth", 1e-2)
    model = onnx.load(tmp_path / "net.onnx")
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    for value, name in ((model.graph.input[0], "rainy"), (model.graph.output[0], "derained")):
        assert value.name == name
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        shape = [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim]
        assert shape == ["batch", 3, "height", "width"]
    (facts,) = model.metadata_props
    assert json.loads(facts.value) == {**load_derainer(weights / "unet.pth").about, "license": "CC-BY-4.0"}
    assert str(repository).encode() not in model.SerializeToString()


# refusals -------------------------------------------------------------------------------------------------------------
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(capsys, weights, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()

    def error(name, *arguments, output="net.onnx"):
        assert tool([str(tmp_path / name), "--output", str(out / output), *arguments]) == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ")
        assert len(printed.splitlines()) == 1
        assert list(out.iterdir()) == []
        return printed

    (tmp_path / "unet.pth").write_bytes((weights / "unet.pth").read_bytes())
    assert "error: --output: expected a name that ends in .onnx or .safetensors, but received" in error(
        "unet.pth", output="n"
    )
    assert "no/n.safetensors: cannot be written" in error("unet.pth", output="no/n.safetensors")
    assert "opset: received 99, but the exporter makes 18" in error("unet.pth", "--opset", "99")
    block = {"type": "SwinIR", "window_size": 4, "depths": [1], "num_heads": [2], "embed_dim": 8, "img_size": 8}
    save(tmp_path / "swin.pth", block, SwinIR(**arguments_of(block), upsampler=""))
    assert "SwinIR has windowed attention" in error("swin.pth")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "format onnx: needs the package onnxscript; run pip install" in error("unet.pth")


@pytest.mark.parametrize(("error", "shown"), [(0.01, r"1\.0e-02"), (float("nan"), "nan")])
def test_an_export_that_differs_is_not_written_and_an_existing_file_stays(weights, tmp_path, monkeypatch, error, shown):
    (tmp_path / "net.safetensors").write_text("before")
    derainer = load_derainer(weights / "unet.pth")
    differs = lambda rainy: derainer(rainy) + (error if rainy.shape[-1] == 1 else 0)  # noqa: E731  the last one compared
    monkeypatch.setattr(exporting, "_run_safetensors", lambda content, _: differs)
    with pytest.raises(InputError, match=f"differs from PyTorch by {shown}, where 1e-04 is allowed; nothing was"):
        exporting.export(derainer, tmp_path / "net.safetensors")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]
