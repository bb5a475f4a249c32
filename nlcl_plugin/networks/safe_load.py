"""Load what a checkpoint holds without running code from it, and without more memory than the file has bytes.

`torch.load(..., weights_only=True)` runs no code, but it takes a file's word for sizes: a few bytes may ask for any
amount of memory (a `bytearray(n)`, a compressed archive, a tensor of one stored value and 10**12 declared ones), and
what it makes may carry attributes that hide methods. Here only tensors and plain values remain.
"""

from __future__ import annotations

import os
import pickletools
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import Tensor, nn

from nlcl_plugin.errors import InputError

_DEPTH = 50  # of lists in lists; ours have 6
# What `weights_only` lets a file call that makes much of little: bytearray(10**10); encode(encode(..., "hex"), "hex").
_GROWING = {"bytearray", "encode"}
_PICKLES = 5  # of the format before torch 1.6, one after the other


def load_plain(path: Path, kind: str = "checkpoint") -> Any:
    """Load a file without ever running code from it.

    Args:
        path: A file of `torch.save`, or a .safetensors file.
        kind: What it should be, for messages.

    Returns:
        Its content: dense tensors on the CPU, and plain values.

    Raises:
        InputError: If it is missing, torn, or holds something else.
    """
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path, device="cpu")
        _refuse_calls(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
        return _Plain(path.stat().st_size).of(content)
    except FileNotFoundError as error:
        raise missing(path, error) from error
    except Exception as error:  # torch.load raises nearly anything on a file that is no checkpoint
        reason = " ".join(str(error).split())[:200]
        refused = re.search(r"(?:GLOBAL|Unsupported class) ([\w.]+)", str(error))
        if refused:  # torch's own text tells how to load it all the same
            reason = f"it holds {refused[1]}, where only tensors and plain values are loaded, so that no code can run"
        raise InputError(f"{path}: torn, or not a {kind} ({reason or type(error).__name__})") from error


def weights_key(content: Any, *keys: str | None) -> str | None:
    """The first of `keys`, `params_ema` and `params` that a file has an entry of; None for the file itself.

    Args:
        content: What the file holds. Entries that are tensors are the weights themselves, whatever they are called.
        *keys: The keys that were asked for, first one first; None asks for none.

    Returns:
        The key.
    """
    held = content if isinstance(content, dict) else {}
    wanted = (*keys, "params_ema", "params")
    return next((key for key in wanted if key is not None and not isinstance(held.get(key, Tensor()), Tensor)), None)


def weights_of(content: Any, path: Path, *keys: str | None) -> dict[str, Tensor]:
    """Take the weights out of what a file holds; see `weights_key` and `checkpoint.load_weights`."""
    key = weights_key(content, *keys)
    weights = content if key is None else content[key]
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        if keys and key is None and isinstance(weights, dict):  # who asks for none has no such option
            asked = " or ".join(repr(one) for one in dict.fromkeys((*keys, "params_ema", "params")) if one is not None)
            held = ", ".join(map(str, list(weights)[:3]))
            raise InputError(f"{path}: holds no weights under {asked} but {held}; name their key in path.param_key_X")
        where = f" under {key!r}" if key is not None else ""
        raise InputError(f"{path}: expected the weights of a network{where}, but it holds something else")
    return {name.removeprefix("module."): value for name, value in weights.items()}


def missing(path: Path, error: OSError) -> InputError:
    """The error of a file that cannot be read."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{path}: missing")
    return InputError(f"{path}: cannot be read ({error.strerror})")


class _UnfitError(Exception):
    pass


def _refuse_calls(path: Path) -> None:
    for pickle in _pickles(path):
        for opcode, argument, _ in pickletools.genops(pickle):
            called = str(argument) if opcode.name == "GLOBAL" else ""
            if called.startswith("mmengine."):
                raise _UnfitError("it holds objects of MMEngine; what our WholeCheckpointHook saves holds none")
            if called.split(" ")[-1] in _GROWING:
                raise _UnfitError(f"it calls {argument}, where only tensors and plain values are loaded")


def _pickles(path: Path) -> Iterator[BinaryIO | bytes]:
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if file.read(4) == b"PK\3\4":
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
                if sum(entry.file_size for entry in entries) > size:  # torch compresses nothing
                    raise _UnfitError(f"it unpacks to more than its {size} bytes")
                for entry in entries:
                    if entry.filename.endswith("data.pkl"):
                        yield archive.read(entry)
            return
        file.seek(0)
        for _ in range(_PICKLES):
            yield file


class _Plain:
    """Copies content (not the values of tensors) and refuses what is no plain value or larger than the file.

    Args:
        size: Of the file, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._storages: dict[int, int] = {}  # bytes by address
        self._done: dict[int, Any] = {}  # what is in a file once and meant twice stays one thing

    def of(self, value: Any, depth: int = 0) -> Any:
        """The copy of a value."""
        if value is None or type(value) in (bool, int, float, complex, str, bytes):
            return value
        if id(value) not in self._done:
            if depth > _DEPTH:
                raise _UnfitError(f"it is nested more than {_DEPTH} deep")
            # The value is kept too, as its id may go to another if it does not live on.
            self._done[id(value)] = value, self._copied(value, depth + 1)
        return self._done[id(value)][1]

    def _copied(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in (Tensor, nn.Parameter):
            return self._dense(value)
        if kind in (dict, OrderedDict, Counter):
            # By the class: an attribute of this one may be in the way.
            return kind({self.of(key, depth): self.of(entry, depth) for key, entry in kind.items(value)})
        if kind in (list, tuple, set, torch.Size):
            return kind(self.of(entry, depth) for entry in value)
        if kind in (torch.device, torch.dtype):
            return value
        raise _UnfitError(f"it holds a {kind.__name__}, where only tensors and plain values are expected")

    def _dense(self, value: Tensor) -> Tensor:
        tensor = Tensor.detach(value)  # without further attributes
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise _UnfitError("it holds a sparse, quantized or empty tensor, where dense ones are expected")
        storage = tensor.untyped_storage()
        # An expanded one, whose values are one in the file, may be a small part of it only.
        if tensor.numel() * tensor.element_size() > max(storage.nbytes(), self._size):
            raise _UnfitError(f"it holds a tensor of the shape {tuple(tensor.shape)}, but not so many values")
        self._storages[storage.data_ptr()] = storage.nbytes()
        if sum(self._storages.values()) > self._size:
            raise _UnfitError(f"it holds tensors larger than its {self._size} bytes")
        return tensor
