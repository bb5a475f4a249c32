"""Infer on images of any size in bounded memory, with the result of the whole image."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
from torch import Tensor, nn

from nlcl_plugin.archs import LayerGenerator
from nlcl_plugin.archs.streamed_generator import stream_generator
from nlcl_plugin.models.padding import run_padded
from nlcl_plugin.ops.tiling import run_tiled

TILE = 1024  # pixels; a tile's feature maps take tens of megabytes
_ROOT = Path("/")
_SHARE = 0.5  # of the memory that is free, for feature maps


@torch.no_grad()
def infer(
    net: nn.Module,
    image: Tensor,
    *,
    window: int = 1,
    scratch: str | os.PathLike[str] | None = None,
    memory: int | None = None,
    say: Callable[[str], object] = lambda message: None,
    tell: Callable[[], object] = lambda: None,
) -> Tensor:
    """Run a network on one image; equal to `net(image)` but for rounding.

    A `LayerGenerator` runs in bands of rows with two feature maps, which go to files where they don't fit the memory.
    A network that says how far it sees (`reach`, `tile_multiple`) runs in tiles. Any other runs on the whole image.

    Args:
        net: A network whose output has the size of its input, on the image's device.
        image: (1, C, H, W), RGB in [0, 1].
        window: What the network needs height and width to be a multiple of.
        scratch: Folder for such files; the system's by default.
        memory: Bytes that feature maps may take; by default half of what is free.
        say: Told, in a sentence, when feature maps go to files.
        tell: Called after each part of the work, `parts` times.

    Returns:
        The output (1, C, H, W), not clipped.
    """
    if isinstance(net, LayerGenerator) and window == 1:
        needed = feature_bytes(net, image)
        free = free_memory(image.device) if memory is None else memory / _SHARE
        if needed <= free * _SHARE or image.device.type != "cpu":
            return stream_generator(net, image, tell=tell)
        with tempfile.TemporaryDirectory(prefix="nlcl_features_", dir=scratch) as folder:
            say(f"{needed / 1e9:.1f} GB of feature maps exceed half of the free memory and go to {folder}: slow")
            return stream_generator(net, image, allocate=_mapped_files(Path(folder)), tell=tell)
    if hasattr(net, "reach") and window == 1:
        return run_tiled(net, image, reach=net.reach, multiple=net.tile_multiple, tile=TILE, tell=tell)  # type: ignore[arg-type]
    output = run_padded(net, image, window)
    tell()
    return output


def parts(net: nn.Module, image: Tensor, window: int = 1) -> int:
    """How often `infer` calls `tell` for this image."""
    if not in_parts(net, window):
        return 1
    if isinstance(net, LayerGenerator):
        return 2 * net.num_block + 4
    return -(-image.shape[-2] // TILE) * -(-image.shape[-1] // TILE)


def in_parts(net: nn.Module, window: int = 1) -> bool:
    """Whether `infer` can take images in parts with this network."""
    return window == 1 and (isinstance(net, LayerGenerator) or hasattr(net, "reach"))


def feature_bytes(net: LayerGenerator, image: Tensor) -> int:
    """Bytes of the two feature maps that a streamed generator holds."""
    return 2 * net.num_feat * image.shape[-2] * image.shape[-1] * image.element_size()


def free_memory(device: torch.device) -> float:
    """Bytes that can be taken."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    return min([float(psutil.virtual_memory().available), *(_left_of(*limit) for limit in _limits())])


def _limits() -> Iterator[tuple[Path, Path]]:
    """Files of the bytes that this process's control groups and those around them allow, and of those taken."""
    try:
        lines = (_ROOT / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for controllers, path in (line.split(":", 2)[1:] for line in lines):
        if controllers and "memory" not in controllers.split(","):
            continue
        version_1 = ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        place, *names = version_1 if controllers else ("", "memory.max", "memory.current")
        top = _ROOT / "sys/fs/cgroup" / place
        group = top / path.strip("/")  # within a container it may not be there, but `top` is its own
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(top))):
            yield folder / names[0], folder / names[1]


def _left_of(limit: Path, used: Path) -> float:
    """What a container or a job of a cluster may still take."""
    try:
        return float(limit.read_text(encoding="ascii")) - float(used.read_text(encoding="ascii"))
    except (OSError, ValueError):  # "max", or no such limit
        return float("inf")


def _mapped_files(folder: Path) -> Callable[..., Tensor]:
    def allocate(shape: tuple[int, ...], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        size = torch.Size(shape).numel()
        path = folder / "features"
        # The file is as large as the map from the start, so that a full disk is an error here and no crash later.
        with open(path, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
        mapped = torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(shape)
        path.unlink()  # the map stays until it is let go, and nothing is left behind by a kill
        return mapped

    return allocate
