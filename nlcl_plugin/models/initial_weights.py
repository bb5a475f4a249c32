"""Initial weights of a network that do not depend on which other networks there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def own_random_stream(seed: int, label: str) -> Iterator[None]:
    """Draw the initial weights of one network from (seed, label) alone.

    Trainings of one seed that differ in a loss, and so in the networks it needs, then start alike. The global stream is
    left as it was.

    Args:
        seed: The seed of the run.
        label: The network's label, such as `g`.
    """
    state = np.random.SeedSequence(seed, spawn_key=tuple(label.encode())).generate_state(2, np.uint32)
    with torch.random.fork_rng(devices=[]):  # networks are built on the CPU
        torch.default_generator.manual_seed(int(state[0]) << 31 ^ int(state[1]))
        yield
