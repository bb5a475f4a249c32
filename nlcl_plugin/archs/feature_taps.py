"""Features from inside a network, at chosen steps, for the contrastive losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


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
