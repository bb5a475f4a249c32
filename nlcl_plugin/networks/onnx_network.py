"""A network in an ONNX file of `basicsr export`, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlcl_plugin.errors import InputError
from nlcl_plugin.networks.about import KEY
from nlcl_plugin.networks.network_file import about_from_json


class OnnxNetwork(nn.Module):
    """From rainy to derained, by a session of onnxruntime on the CPU with an input and an output of these names."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, rainy: Tensor) -> Tensor:
        """Derain (B, 3, H, W), RGB in [0, 1]; the result is on the device of the input."""
        try:
            (derained,) = self.session.run(["derained"], {"rainy": rainy.float().cpu().numpy()})
        except Exception as error:  # its own, of no common kind
            raise RuntimeError(f"onnxruntime: {error}") from error
        return torch.from_numpy(derained).to(rainy)


def load_onnx(path: Path) -> tuple[OnnxNetwork, dict[str, Any]]:
    """Load an exported network, and what it is (see `networks.about.describe`); its output is always the image layer.

    Raises:
        InputError: If onnxruntime is not installed, or the file is missing, damaged or of another origin.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{path}: needs the package {error.name}; run pip install 'nlcl_plugin[export]'") from error
    try:
        content = path.read_bytes()
        _refuse_other_files(onnx.load_model_from_string(content))
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it raises is enough
        options.add_session_config_entry("session.load_model_format", "ONNX")  # what has just been checked
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
        names = [[port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs())]
    except Exception as error:  # both packages have exceptions of their own for each fault
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged, or not made by basicsr export ({reason}); export it again") from error
    if text is None or names != [["rainy"], ["derained"]]:
        raise InputError(f"{path}: was not made by basicsr export; give a file that was")
    return OnnxNetwork(session), {**about_from_json(text, path), "output": "image"}


def _refuse_other_files(model: Any) -> None:
    """Refuse weights in other files, and what exported networks never have and may name such: graphs in graphs."""
    graph = model.graph
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs for attribute in attributes) or model.functions:
        raise ValueError("it contains graphs in graphs, or functions")
    tensors = [*graph.initializer, *(tensor for one in attributes for tensor in (one.t, *one.tensors))]
    if any(tensor.external_data or tensor.data_location for tensor in tensors) or graph.sparse_initializer:
        raise ValueError("it names other files to read weights from")
