"""Hooks: what is logged, pictures of layers, and an end on request."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.engine.agreement import Agreement


class CurrentLossesHook(Hook):
    """Takes losses that a step does not have out of MMEngine's log, which would go on showing their last values."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Forget what the step did not return."""
        scalars = runner.message_hub.log_scalars
        for name in [name for name in scalars if name.startswith("train/l_")]:
            if name.removeprefix("train/") not in (outputs or {}):
                del scalars[name]


class LayerStripHook(Hook):
    """Gives strips of rainy | derained | rain to the visualizer at every validation and test.

    With MMEngine's `LocalVisBackend` they go to `vis_data/vis_image` below the work folder.

    Args:
        max_images: Strips a validation; None for all.
    """

    def __init__(self, max_images: int | None = None) -> None:
        self.max_images = max_images
        self._shown = 0

    def before_val(self, runner: Runner) -> None:
        """Begin anew."""
        self._shown = 0

    before_test = before_val

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[dict[str, Any]] | None = None
    ) -> None:
        """Show the images of a batch."""
        for sample in outputs or ():
            if self.max_images is not None and self._shown >= self.max_images:
                return
            self._shown += 1
            layers = [to_uint8(sample[key]) for key in ("lq", "result", "rain")]
            shaped = [np.broadcast_to(layer, layers[0].shape) for layer in layers]  # rain may be grey
            name = os.path.splitext(os.path.basename(sample.get("lq_path", f"image_{self._shown}")))[0]
            runner.visualizer.add_image(name, np.concatenate(shaped, axis=1), step=runner.iter)

    after_test_iter = after_val_iter


class StopOnSignalHook(Hook):
    """The first SIGINT or SIGTERM asks training to finish the step, save and end; a second one ends at once.

    Attributes:
        interrupted: Whether training was ended.
    """

    priority = "LOWEST"  # after the step's logs, schedules and regular checkpoint

    def __init__(self) -> None:
        self.interrupted = False
        self._requested = False
        self._before: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Listen."""
        self._agreement = Agreement()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._request)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save and end, if one of the processes was asked to."""
        if not self._agreement.any(self._requested) or runner.iter + 1 == runner.max_iters:
            return
        self.interrupted = True
        runner.train_loop.stop_training = True
        step = runner.iter + 1
        file = f"iter_{step}.pth"
        runner.save_checkpoint(runner.work_dir, file, meta={"epoch": runner.epoch, "iter": step}, by_epoch=False)
        if runner.rank == 0:
            with open(os.path.join(runner.work_dir, "last_checkpoint"), "w", encoding="utf-8") as last:
                last.write(os.path.join(runner.work_dir, file))

    def after_train(self, runner: Runner) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, _frame: FrameType | None) -> None:
        self._requested = True
        signal.signal(number, signal.SIG_DFL)
