"""Trained networks as files for other runtimes: one graph from a rainy to a derained image, compared before it is kept.

The graph takes `rainy` (batch, 3, height, width), RGB in [0, 1], of any size, and returns `derained`, the same shape
and range, not clipped; both are float32, also of a graph that computes in half precision. Of a network that makes the
rain layer it returns what is left.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from nlcl_plugin.data.files import write_whole
from nlcl_plugin.errors import InputError, writing_to
from nlcl_plugin.inference.derainer import PLAIN, Derainer
from nlcl_plugin.networks.about import as_metadata
from nlcl_plugin.networks.network_file import build_with_weights
from nlcl_plugin.networks.onnx_network import OnnxNetwork
from nlcl_plugin.networks.weights import safetensors_bytes

OPSET = 18  # what torch's exporter is written for; others are converted
# Largest difference to the network in PyTorch and full precision, in [0, 1].
TOLERANCE, HALF_TOLERANCE = 1e-4, 1e-2
CHECKED_SHAPES = ((1, 3, 37, 51), (2, 3, 50, 33), (1, 3, 64, 64), (2, 3, 1, 1))  # (B, C, H, W)
_EXAMPLE = (2, 3, 21, 34)


class _Graph(nn.Module):
    """From rainy to derained, float32 in and out."""

    def __init__(self, derainer: Derainer, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = derainer.net.to(dtype)
        self.dtype = dtype
        self.makes_rain = derainer.makes_rain

    def forward(self, rainy: Tensor) -> Tensor:
        output: Tensor = self.net(rainy.to(self.dtype)).to(rainy.dtype)
        return rainy - output if self.makes_rain else output


def export(derainer: Derainer, output: str | os.PathLike[str], *, half: bool = False, opset: int = OPSET) -> float:
    """Export a network; the file is written only if it makes what PyTorch makes.

    Args:
        derainer: The network.
        output: The file: `.onnx` contains the graph, with sizes and batch left open, `.safetensors` the weights. Its
            metadata contain `about` (see `networks.about.describe`) as JSON.
        half: Compute in float16, or keep the weights in it.
        opset: Of ONNX.

    Returns:
        The largest difference to PyTorch in full precision on noise of `CHECKED_SHAPES`, in [0, 1].

    Raises:
        InputError: If the name does not fit, a package is missing, the network cannot be exported, the result differs,
            or the file cannot be written.
    """
    path = Path(output).expanduser()
    kind = path.suffix.removeprefix(".")
    if kind not in ("onnx", "safetensors"):
        raise InputError(f"--output: expected a name that ends in .onnx or .safetensors, but received {str(output)!r}")
    network = derainer.about["network"]["type"]
    if kind != "safetensors" and derainer.about["window_size"] > 1:
        raise InputError(
            f"{derainer.source}: {network} has windowed attention, whose mask depends on the image's size by Python "
            f"code that a {kind} file cannot hold; export it as safetensors"
        )
    examples = [torch.rand(shape, generator=torch.Generator().manual_seed(0)) for shape in CHECKED_SHAPES]
    with _quiet(), torch.no_grad():
        try:
            # A copy, as `half` changes it, and on the CPU, as a GPU's convolutions round more than TOLERANCE.
            derainer = replace(derainer, net=deepcopy(derainer.net).cpu())
            whole = replace(derainer, **PLAIN)  # what a graph does
            expected = [whole(example) for example in examples]  # raises if the size is not kept
            content = _onnx(derainer, half, opset) if kind == "onnx" else _safetensors(derainer, half)
            run = _run_onnx(content) if kind == "onnx" else _run_safetensors(content, derainer)
            differences = [(run(one) - wanted).abs().max() for one, wanted in zip(examples, expected, strict=True)]
        except InputError:
            raise
        except Exception as error:  # whatever an architecture does that an exporter or a runtime does not know
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{derainer.source}: {network} cannot be exported as {kind} ({reason})") from error
    difference = float(torch.stack(differences).max())  # NaN, if one is
    allowed = HALF_TOLERANCE if half else TOLERANCE
    if not difference <= allowed:
        raise InputError(
            f"{derainer.source}: {network} as {kind} differs from PyTorch by {difference:.1e}, where {allowed:.0e} is "
            f"allowed; nothing was written; export it {'without half' if half else 'in another format'}"
        )
    with writing_to(path, advice="give another file"):
        write_whole(path, content)
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence exporters about their own deprecations and conversions: what counts is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _onnx(derainer: Derainer, half: bool, opset: int) -> bytes:
    try:
        import onnx  # an extra
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        message = f"format onnx: needs the package {error.name}; run pip install 'nlcl_plugin[export]'"
        raise InputError(message) from error
    program = torch.onnx.export(
        _Graph(derainer, torch.float16 if half else torch.float32).eval(),
        (torch.rand(_EXAMPLE),),
        dynamo=True,
        dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        input_names=["rainy"],
        output_names=["derained"],
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    found = {entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
    if found != {opset}:
        raise InputError(f"--opset: received {opset}, but the exporter makes {max(found)} of this network; give that")
    graph = model.graph
    for entry in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del entry.metadata_props[:]  # the Python code that a node comes from, paths on this machine included
        entry.doc_string = ""
    model.producer_name, model.doc_string = "nlcl_plugin", "rainy to derained: RGB in [0, 1], any size, not clipped"
    onnx.helper.set_model_props(model, as_metadata(derainer.about))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _run_onnx(content: bytes) -> Callable[[Tensor], Tensor]:
    import onnxruntime

    return OnnxNetwork(onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]))


def _safetensors(derainer: Derainer, half: bool) -> bytes:
    weights = {
        name: value.half() if half and value.is_floating_point() else value
        for name, value in derainer.net.state_dict().items()
    }
    return safetensors_bytes(weights, as_metadata(derainer.about))


def _run_safetensors(content: bytes, derainer: Derainer) -> Callable[[Tensor], Tensor]:
    weights = safetensors.torch.load(content)
    net = build_with_weights(derainer.about["network"], weights, where="the network", source=derainer.source)
    return Derainer(net, derainer.about, derainer.source)
