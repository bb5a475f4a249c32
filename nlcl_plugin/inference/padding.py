"""Networks that take only sizes that are a multiple of something, on images of any size."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def run_padded(net: Callable[[Tensor], Tensor], images: Tensor, multiple: int, scale: int = 1) -> Tensor:
    """Run a network on images that are mirrored at the right and bottom to a size it takes.

    Args:
        net: A network.
        images: (B, C, H, W).
        multiple: What height and width must be a multiple of, such as the window size of a SwinIR.
        scale: How many times as large as its input the network's output is.

    Returns:
        The output (B, C, scale × H, scale × W).
    """
    height, width = images.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    # A mirror image is no larger than the image; the rare tiny one is continued by its edge.
    mode = "reflect" if bottom < height and right < width else "replicate"
    return net(F.pad(images, (0, right, 0, bottom), mode=mode))[..., : scale * height, : scale * width]
