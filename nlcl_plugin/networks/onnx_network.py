"""A network in an ONNX file of `tools/export.py`, run by onnxruntime."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.about import KEY
from nlcl_plugin.networks.network_file import about_from_json


class OnnxNetwork(nn.Module):
    """From rainy to derained, by a session of onnxruntime on the CPU.

    Args:
        session: The session, with the input `rainy` and the output `derained`.
    """

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, rainy: Tensor) -> Tensor:
        """Derain (B, 3, H, W), RGB in [0, 1]; the result is on the device of the input."""
        try:
            (derained,) = self.session.run(["derained"], {"rainy": rainy.float().cpu().numpy()})
            return torch.from_numpy(derained).to(rainy)
        except Exception as error:  # its own, of no common kind
            raise RuntimeError(f"onnxruntime: {error}") from error


def load_onnx(path: Path) -> tuple[OnnxNetwork, dict[str, Any]]:
    """Load an exported network.

    Args:
        path: An ONNX file of `tools/export.py`.

    Returns:
        The network, and what it is (see `network_about.describe`), but its output is the image layer in any case.

    Raises:
        InputError: If onnxruntime is not installed, or the file is missing, torn or of another origin.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: needs the package {error.name}; run pip install 'nlcl_plugin[export]'") from error
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {'missing' if isinstance(error, FileNotFoundError) else error.strerror}") from error
    try:
        _refuse_others(onnx.load_model_from_string(content), len(content))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it raises says it all
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what has just been looked at
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        names = [[port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs())]
    except Exception as error:  # both packages have exceptions of their own for each fault
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: torn, or no ONNX file of ours ({reason}); export it again") from error
    if text is None or names != [["rainy"], ["derained"]]:
        raise InputError(f"{path}: does not say that it derains; give a file of tools/export.py --format onnx")
    return OnnxNetwork(session), {**about_from_json(text, path), "output": "image"}


def _refuse_others(model: Any, size: int) -> None:
    """Refuse what exported networks never have: weights in other files or larger than this one, and control flow.

    Args:
        model: What the file holds.
        size: Its size in bytes.

    Raises:
        ValueError: If there is any.
    """
    graph = model.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    plain = {"FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS"}
    kinds = {attribute.AttributeType.Name(attribute.type) for attribute in attributes}
    domains = {entry.domain for entry in model.opset_import} | {node.domain for node in graph.node}
    if not kinds <= plain or not domains <= {"", "ai.onnx"} or model.functions or graph.sparse_initializer:
        raise ValueError("it holds graphs in graphs, functions, sparse weights or operators of others")
    for tensor in [*graph.initializer, *(attribute.t for attribute in attributes)]:
        if tensor.external_data or tensor.data_location:
            raise ValueError("it names other files to read weights from")
        if math.prod(tensor.dims) > 8 * size:  # of some types, one value is a part of a byte
            raise ValueError(f"it holds weights of the shape {tuple(tensor.dims)}, but not so many values")
