"""A network in an ONNX file of `tools/export.py`, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nlcl_plugin.engine.network_about import KEY
from nlcl_plugin.engine.network_file import about_from_json
from nlcl_plugin.errors import InputError


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
        except Exception as error:  # its own, of no common kind
            raise RuntimeError(f"onnxruntime: {error}") from error
        return torch.from_numpy(derained).to(rainy.device)


def _parts(message: Any) -> Iterator[Any]:
    """A message of protobuf and all within it: weights may be in functions and in branches too."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if isinstance(value, Sequence) else [value]:
                yield from _parts(part)


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
        parts = _parts(onnx.load_model_from_string(content))
        if any(isinstance(part, onnx.TensorProto) and part.external_data for part in parts):
            raise InputError(f"{path}: names other files to read weights from, which ours never do; export it again")
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    except InputError:
        raise
    except Exception as error:  # both packages have exceptions of their own for each fault
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: torn, or no ONNX file ({reason}); export it again") from error
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    names = [[port.name for port in ports] for ports in (session.get_inputs(), session.get_outputs())]
    if text is None or names != [["rainy"], ["derained"]]:
        raise InputError(f"{path}: does not say that it derains; give a file of tools/export.py --format onnx")
    return OnnxNetwork(session), {**about_from_json(text, path), "output": "image"}
