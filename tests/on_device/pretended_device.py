"""A device that is only pretended: its tensors hold CPU data, and refuse what those of a GPU refuse.

It is torch's PrivateUse1 backend, written in Python. Tensors of the CPU and of the device can't be mixed, except that a
CPU tensor may be a single number or an index, and tensors of the device don't become NumPy arrays. `waits` lists what
would make a GPU's host wait: numbers read, sizes that depend on values, and copies in either direction, except copies
to the device with `non_blocking=True`. It knows nothing of kernels, memory, streams, NCCL and loss scaling.
"""

import contextlib
import functools
import traceback
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PACKAGE = str(Path(__file__).resolve().parents[2] / "nlcl_plugin")
NAME = "pretended"
READS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
waits: list[str] = []  # "operator at file:line of our package", in order


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended device; `held` has its values."""

    @staticmethod
    def __new__(cls, held):
        return torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=torch.device(NAME, 0),
        )  # fmt: skip

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __repr__(self):
        return f"DeviceTensor({self.held})"

    def _refuse(self, *_, **__):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")

    numpy = __array__ = _refuse

    def tolist(self):
        _wait("tolist")
        return self.held.tolist()

    def __deepcopy__(self, memo):
        copied = DeviceTensor(self.held.detach().clone()).requires_grad_(self.requires_grad)
        if getattr(self, "_is_param", False):
            copied = torch.nn.Parameter(copied, self.requires_grad)
        return memo.setdefault(id(self), copied)

    def __reduce_ex__(self, protocol):  # files are read back to the CPU
        return self.held.detach().__reduce_ex__(protocol)


class _Factories(TorchDispatchMode):
    """Tensors that are made on the device from nothing."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _wait(operator):
    ours = [frame for frame in traceback.extract_stack() if frame.filename.startswith(PACKAGE)]
    waits.append(f"{operator} at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else f"{operator} elsewhere")


def _on_device(value):
    return isinstance(value, torch.device) and value.type == NAME


def _run(func, args, kwargs):
    name = func._schema.name.removeprefix("aten::")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    mine = [t for t in tensors if isinstance(t, DeviceTensor)]
    others = [t for t in tensors if not isinstance(t, DeviceTensor)]
    target = kwargs.get("device")
    result_on_device = _on_device(torch.device(target)) if target is not None else bool(mine)
    if name in ("_to_copy", "copy_"):
        target_on_device = result_on_device if name == "_to_copy" else isinstance(args[0], DeviceTensor)
        source = args[-1] if name == "_to_copy" else args[1]
        crosses = target_on_device != isinstance(source, DeviceTensor)
        blocking = not (kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2]))
        if crosses and (blocking or not target_on_device):
            _wait("copy to the device" if target_on_device else "copy to the CPU")
    elif mine:
        if name in READS:
            _wait(name)
        elif name in INDEXING:
            indices = [i for i in args[1] if i is not None]
            if any(not isinstance(i, DeviceTensor) or i.dtype in (torch.bool, torch.uint8) for i in indices):
                _wait(name)
            others = [t for t in others if not any(t is i for i in indices)]
        mixed = [tuple(t.shape) for t in others if t.dim() > 0]
        if mixed:
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got CPU tensors {mixed}")
    if name != "is_pinned":
        kwargs = {key: value for key, value in kwargs.items() if key != "pin_memory"}
    plain_args, plain_kwargs = tree_map(_plain, (args, kwargs))
    out = func(*plain_args, **plain_kwargs)
    if func._schema.is_mutable:
        if "out" in kwargs:
            return kwargs["out"]
        if name.endswith("_"):
            return args[0] if out is not None else None
    return tree_map(_held, out) if result_on_device and name not in READS - {"nonzero"} | {"_unique2"} else out


def _plain(value):
    if isinstance(value, DeviceTensor):
        return value.held
    return torch.device("cpu") if _on_device(value) else value


def _held(value):
    return DeviceTensor(value) if isinstance(value, torch.Tensor) and not isinstance(value, DeviceTensor) else value


@functools.cache
def _register():
    """Name the backend and give it what C++ code calls; returns what must live as long as the process."""
    try:
        from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as setup
    except ImportError:
        return f"torch {torch.__version__} can't have a backend that is written in Python"
    setup(NAME)
    module = getattr(torch, NAME)
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    module.is_autocast_available = lambda: True

    def made(operator):
        def make(*args, **kwargs):
            kwargs.pop("pin_memory", None)
            return DeviceTensor(operator(*args, **{**kwargs, "device": torch.device("cpu")}))

        return make

    def copy(source, target, non_blocking=False):
        if isinstance(target, DeviceTensor) != isinstance(source, DeviceTensor) and not non_blocking:
            _wait("copy to the device")  # by torch.tensor, which no mode sees
        _plain(target).copy_(_plain(source))
        return target

    operators, autocast = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    operators.impl("empty_strided", made(torch.ops.aten.empty_strided), "PrivateUse1")
    operators.impl("empty.memory_format", made(torch.ops.aten.empty.memory_format), "PrivateUse1")
    operators.impl("_copy_from", copy, "PrivateUse1")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return operators, autocast


@contextlib.contextmanager
def _active():
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Factories():
            yield torch.device(NAME, 0)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


@pytest.fixture
def device(monkeypatch):
    """The pretended device, on which BasicSR's models are built."""
    from basicsr.models.base_model import BaseModel

    registered = _register()
    if isinstance(registered, str):
        pytest.skip(registered)
    waits.clear()
    with _active() as pretended:
        monkeypatch.setattr(BaseModel, "device", property(lambda _: pretended, lambda _, __: None), raising=False)
        yield pretended
