"""The random numbers of one iteration, independent of how its batch is split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nlcl_plugin.ops import random_centres


def to_device(x: Tensor, like: torch.device | Tensor) -> Tensor:
    """A copy on a device, or of the type of a tensor too; blocking, it would wait for all work of the device."""
    where = like.device if isinstance(like, Tensor) else like
    return x.to(like, non_blocking=where.type != "mps")  # which may read `x` after it has gone


class BatchRandom:
    """Random numbers for some images of a batch.

    Numbers are drawn for the whole batch of all processes, from (seed, iteration) alone, and only the rows of the own
    images are kept. So a step does not depend on how many processes or parts its batch is split over, nor on earlier
    draws: a resumed run continues exactly.

    Args:
        seed: The seed of the run.
        current_iter: The iteration.
        rows: Places of the own images in the whole batch.
        total: Images of the whole batch.
    """

    def __init__(self, seed: int, current_iter: int, rows: Sequence[int], total: int) -> None:
        # A sequence, as neighbouring seeds of torch's generator give related streams.
        state = np.random.SeedSequence(seed, spawn_key=(current_iter,)).generate_state(2, np.uint32)
        self.generator = torch.Generator().manual_seed(int(state[0]) << 31 ^ int(state[1]))
        self.rows = list(rows)
        self.total = total

    def each(self, draw: Callable[[int], Tensor], device: torch.device) -> Tensor:
        """Numbers of each image.

        Args:
            draw: Given a number of images, draws for them with `generator`.
            device: Where to put the result.

        Returns:
            The own rows of what was drawn.
        """
        return to_device(draw(self.total)[self.rows], device)

    def uniform(self, low: float, high: float, like: Tensor) -> Tensor:
        """A number in [low, high) for each image, (B, 1, 1, 1), on the device and of the type of `like`."""

        def draw(images: int) -> Tensor:
            return low + (high - low) * torch.rand(images, 1, 1, 1, generator=self.generator)

        return self.each(draw, like.device).to(like.dtype)

    def coin(self, probability: float, like: Tensor) -> Tensor:
        """One with a probability, else zero, for each image, (B, 1, 1, 1)."""
        return (self.uniform(0, 1, like.new_empty(0, dtype=torch.float32)) < probability).to(like.dtype)

    def seeds(self, probability: float) -> dict[int, int]:
        """A seed for each own image that is chosen, each with a probability; by the image's place in the own batch."""
        cpu = torch.device("cpu")
        chosen = self.coin(probability, torch.empty(0)).flatten().tolist()
        seeds = self.each(lambda n: torch.randint(2**62, (n,), generator=self.generator), cpu).tolist()
        return {place: seed for place, seed in enumerate(seeds) if chosen[place]}

    def shared(self, low: float, high: float) -> float:
        """One number in [low, high) for the whole batch."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def shared_integer(self, end: int) -> int:
        """One whole number in [0, end) for the whole batch."""
        return int(torch.randint(end, (), generator=self.generator))

    def centres(self, num: int, size: tuple[int, int], patch_size: int, device: torch.device) -> Tensor:
        """Patch centres (B, num, 2) of each image; see `ops.random_centres`."""
        return self.each(lambda n: random_centres(n, num, size, patch_size, generator=self.generator), device)
