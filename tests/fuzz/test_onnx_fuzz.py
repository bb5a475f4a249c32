"""Whatever becomes of an ONNX file, it derains or is refused in one line.

Each is run in a process of its own, as onnxruntime is native code that might end it. The draws are derived from the
test itself, so that every run sees the same examples.
"""

import os
import resource
from pathlib import Path

import numpy as np
import pytest
from derain_helpers import save_network
from hostile import CHANGED_TWICE, assert_one_line, change_anywhere, examples, in_child, mutated, watch, written

from nlcl_plugin.archs import LayerGenerator, ResidualUNet
from nlcl_plugin.errors import InputError
from nlcl_plugin.inference.derain import ImageDerainer
from nlcl_plugin.inference.derainer import load_derainer
from nlcl_plugin.inference.export import export

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

RAINY = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
NUMBERS = [-(2**63), -(2**31), -1, 0, 1, 2, 3, 7, 64, 10**6, 2**31 - 1, 2**31, 2**40, 2**62]
OPERATORS = ["Add", "Div", "Conv", "Resize", "Pad", "Reshape", "Expand", "Tile", "ConstantOfShape", "Concat", "Cast",
             "Loop", "If", "Scan", "Gather", "InstanceNormalization", "Softmax", "RandomNormalLike", "StringConcat",
             "MatMul", "TopK", "NonZero", "SequenceConstruct", "QuantizeLinear", "no such"]  # fmt: skip
MEMORY = 3 << 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Exported networks, as they should be."""
    folder = tmp_path_factory.mktemp("onnx")
    models = []
    for kind in (ResidualUNet, LayerGenerator):
        net = kind(num_feat=4) if kind is ResidualUNet else kind(num_feat=4, num_block=1)
        save_network(folder / "net_s.pth", net)
        export(load_derainer(folder / "net_s.pth"), folder / "net.onnx", "onnx")
        models.append((folder / "net.onnx").read_bytes())
    return models


def change_tensor(draw, tensor):
    """Change weights, or a constant."""
    kind = draw.choice(["dims", "dims", "data", "cut", "type", "external", "values", "name"])
    if kind == "dims":
        dims = list(tensor.dims) or [1]
        dims[draw.randrange(len(dims))] = draw.choice(NUMBERS)
        tensor.ClearField("dims")
        tensor.dims.extend(draw.choice([dims, [2**40], [2**20] * 3, [0], []]))
    elif kind == "data" and tensor.raw_data:
        tensor.raw_data = mutated(draw, tensor.raw_data)
    elif kind == "cut":
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif kind == "type":
        tensor.data_type = draw.randrange(26)
    elif kind == "external":
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", draw.choice(["/etc/passwd", "../../x", "net.onnx"])
        tensor.data_location = draw.randrange(2)
    elif kind == "values" and tensor.raw_data and tensor.data_type in (1, 7):
        new = np.array(draw.choice(NUMBERS if tensor.data_type == 7 else [np.nan, np.inf, -1e38, 0]))
        kind = np.int64 if tensor.data_type == 7 else np.float32
        values = np.frombuffer(tensor.raw_data, kind).copy()
        values[draw.randrange(len(values))] = new
        tensor.raw_data = values.tobytes()
    else:
        tensor.name = draw.choice(["", "rainy", "derained", "x" * 999, "two\nlines"])


def change_attribute(draw, attribute):
    number = draw.choice(NUMBERS)
    kind = draw.choice(["i", "ints", "f", "s", "type", "t"])
    if kind == "i":
        attribute.i = number
    elif kind == "ints" and attribute.ints:
        attribute.ints[draw.randrange(len(attribute.ints))] = number
    elif kind == "ints":
        attribute.ints.extend([number] * draw.randint(1, 5))
    elif kind == "f":
        attribute.f = draw.choice([float("nan"), 1e38, -1, 0])
    elif kind == "s":
        attribute.s = draw.choice([b"linear", b"cubic", b"\xff", b"", b"reflect", b"SAME_UPPER"])
    elif kind == "type":
        attribute.type = draw.randrange(15)
    else:
        change_tensor(draw, attribute.t)


def change_node(draw, graph):
    number = draw.randrange(len(graph.node))
    node = graph.node[number]
    kind = draw.choice(["operator", "inputs", "outputs", "attribute", "attribute", "drop", "double", "domain", "graph"])
    if kind == "operator":
        node.op_type = draw.choice(OPERATORS)
    elif kind in ("inputs", "outputs"):
        names = node.input if kind == "inputs" else node.output
        others = [name for other in graph.node for name in (*other.input, *other.output)]
        names[draw.randrange(len(names))] if names else names.append("rainy")
        names[draw.randrange(len(names))] = draw.choice([*others, "", "rainy", "derained"])
    elif kind == "attribute" and node.attribute:
        change_attribute(draw, draw.choice(node.attribute))
    elif kind == "double":
        graph.node.append(node)
    elif kind == "domain":
        node.domain = draw.choice(["com.microsoft", "ai.onnx.ml", "x", "ai.onnx"])
    elif kind == "graph":
        attribute = node.attribute.add()
        attribute.name, attribute.type = "body", onnx.AttributeProto.GRAPH
        attribute.g.initializer.add().external_data.add().value = "/etc/passwd"
    else:
        del graph.node[number]


def change_model(draw, data):
    """A file whose parts are other ones."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    for _ in range(draw.choice([1, 1, 2, 3])):
        kind = draw.choice(["node"] * 5 + ["tensor"] * 4 + ["port", "about", "about", "opset", "version"])
        if kind == "node" and graph.node:
            change_node(draw, graph)
        elif kind == "tensor" and graph.initializer:
            change_tensor(draw, draw.choice(graph.initializer))
        elif kind == "port":
            port = draw.choice([*graph.input, *graph.output])
            if draw.random() < 0.3:
                port.name = draw.choice(["", "rain", "derained", "rainy"])
            elif draw.random() < 0.5:
                port.type.tensor_type.elem_type = draw.randrange(20)
            else:
                port.type.tensor_type.shape.dim[draw.randrange(4)].dim_value = draw.choice(NUMBERS)
        elif kind == "about":
            (entry,) = [entry for entry in model.metadata_props if entry.key == "nlcl_plugin"]
            text = change_anywhere(draw, entry.value, draw.choice(["value", "key"]))
            entry.value = draw.choice([text] * 5 + ["", "[" * 100_000, "null"])
        elif kind == "opset":
            model.opset_import[0].version = draw.choice([*NUMBERS, 6, 11, 13, 17, 20, 24])
            model.opset_import[0].domain = draw.choice(["", "", "com.microsoft", "x"])
        else:
            model.ir_version = draw.choice([*NUMBERS, 3, 8, 11])
    return model.SerializeToString()


def derain(path):
    """Derain in this process, which ends after it, with no more memory than needed."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch().seen.clear()
    watch().on = True
    try:
        derained = ImageDerainer(path, device="cpu").array(RAINY)
    except InputError as error:
        assert_one_line(error)
    else:
        assert (derained.shape, derained.dtype) == (RAINY.shape, RAINY.dtype)
    assert written() == []


def fuzz(folder, whole, count):
    path = folder / "net.onnx"

    @examples(count)
    def go(draw):
        data = draw.choice(whole)
        if draw.random() < 0.3:
            for _ in range(draw.randint(1, 3)):
                data = mutated(draw, data)
        else:
            try:
                data = change_model(draw, data)
            except CHANGED_TWICE:
                return
        path.write_bytes(data)
        assert in_child(lambda: derain(path)) == 0

    go()
    assert os.listdir(folder) == ["net.onnx"]


def test_mutated_onnx_files(tmp_path, whole):
    fuzz(tmp_path, whole, 40)


@pytest.mark.slow
def test_a_thousand_mutated_onnx_files(tmp_path, whole):
    fuzz(tmp_path, whole, 1000)
