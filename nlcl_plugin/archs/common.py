"""What several networks have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


def full_precision(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Run an output convolution in the precision of its weights, also inside autocast.

    An image in bfloat16 has steps of 1/256 near white, as coarse as the 8 bits it came from.
    """
    with torch.autocast(x.device.type, enabled=False):
        return convolution(x.to(convolution.weight.dtype))


@torch.no_grad()
def start_small(layer: nn.Conv2d | nn.Linear, factor: float) -> None:
    """Make the initial output of a layer small: its weights times a factor, its bias zero."""
    layer.weight.mul_(factor)
    layer.bias.zero_()  # type: ignore[union-attr]


class FeatureTaps(nn.Module):
    """A network of steps in a row; a feature tap is the index of a step whose output is returned too."""

    step_channels: list[int]  # of each step's output

    def steps(self) -> Sequence[Callable[[Tensor], Tensor]]:
        """What the network does one after another."""
        raise NotImplementedError

    def result(self, out: Tensor, x: Tensor) -> Tensor:
        """Make the result of the last step's output; `x` is the input of the network."""
        return out

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """Channels of the features at taps; a ValueError if there is no such tap."""
        last = len(self.step_channels) - 1
        wrong = [tap for tap in taps if not 0 <= tap <= last]
        if wrong:
            raise ValueError(f"taps of {type(self).__name__} must be in [0, {last}], but received {wrong}")
        return [self.step_channels[tap] for tap in taps]

    def forward(
        self, x: Tensor, taps: Sequence[int] | None = None, features_only: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]] | list[Tensor]:
        """Run the network.

        Args:
            x: Images (B, num_in_ch, H, W), RGB in [0, 1].
            taps: Also return the features at these taps, in the given order.
            features_only: Return only the features and stop at the deepest tap.

        Returns:
            The result; with `taps` a pair (result, features); with `features_only` the features.

        Raises:
            ValueError: If a tap does not exist.
        """
        wanted = tuple(taps or ())
        self.tap_channels(wanted)
        steps = self.steps()
        found: dict[int, Tensor] = {}
        out = 2 * x - 1
        for index, step in enumerate(steps[: max(wanted, default=-1) + 1] if features_only else steps):
            out = step(out)
            if index in wanted:
                found[index] = out
        features = [found[tap] for tap in wanted]
        if features_only:
            return features
        result = self.result(out, x)
        return result if taps is None else (result, features)
