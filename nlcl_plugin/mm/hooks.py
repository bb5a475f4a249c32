"""Hooks (what is logged, pictures of layers, an end on request) and a training loop that resumes at once."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from nlcl_plugin.data.files import inner_name
from nlcl_plugin.data.image_io import to_uint8
from nlcl_plugin.errors import escape
from nlcl_plugin.mm.checkpoints import WholeCheckpointHook
from nlcl_plugin.mm.data import EndlessBatchSampler
from nlcl_plugin.training.distributed import Agreement
from nlcl_plugin.training.train import StopRequest


class CurrentLossesHook(Hook):
    """Removes losses that a step does not have from MMEngine's log, which would keep showing their last values."""

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Remove what the step did not return."""
        scalars = runner.message_hub.log_scalars
        for name in [name for name in scalars if name.startswith("train/l_")]:
            if name.removeprefix("train/") not in (outputs or {}):
                del scalars[name]


class LayerStripHook(Hook):
    """Gives strips of rainy | derained | rain to the visualizer at every validation and test, at most `max_images`.

    With MMEngine's `LocalVisBackend` they go to `vis_data/vis_image` below the work folder.
    """

    def __init__(self, max_images: int | None = None) -> None:
        self.max_images = max_images
        self._shown = 0

    def before_val(self, runner: Runner) -> None:
        """Count from 0."""
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
            name = os.path.splitext(os.path.basename(sample.get("lq_path", f"image_{self._shown}")))[0]
            runner.visualizer.add_image(escape(inner_name(name)), np.concatenate(layers, axis=1), step=runner.iter)

    after_test_iter = after_val_iter


class StopOnSignalHook(Hook):
    """The first SIGINT or SIGTERM asks training to finish the step, save and end; a second one ends at once.

    `began` and `interrupted` are for the caller. A loop that counts epochs is left by a KeyboardInterrupt.
    """

    priority = "LOWEST"  # after the step's logs, schedules and regular checkpoint

    def __init__(self) -> None:
        self.began = self.interrupted = False
        self._stop, self._handlers = StopRequest(), contextlib.ExitStack()

    def before_train(self, runner: Runner) -> None:
        """Install the handlers."""
        self.began = True
        self._agreement = Agreement()
        self._handlers.enter_context(self._stop)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Save and end, if one of the processes was asked to."""
        if not self._agreement.any(self._stop.requested) or runner.iter + 1 == runner.max_iters:
            return
        self.interrupted = True
        hooks = [hook for hook in runner.hooks if isinstance(hook, WholeCheckpointHook) and not hook.by_epoch]
        if not hooks:
            hooks = [WholeCheckpointHook(by_epoch=False)]
            hooks[0].before_train(runner)
        hooks[0]._save_checkpoint(runner)  # the training's own, if it has one, as that counts what it keeps
        runner.train_loop.stop_training = True
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise KeyboardInterrupt(f"saved after iteration {runner.iter + 1}")  # else it ends with the epoch

    def after_train(self, runner: Runner | None = None) -> None:
        """Restore the handlers from before."""
        self._handlers.close()


class ResumableTrainLoop(IterBasedTrainLoop):
    """`IterBasedTrainLoop` that resumes at once with an `EndlessBatchSampler`; MMEngine's loads all batches again."""

    def run(self) -> Any:
        """Train."""
        batches = self.dataloader.batch_sampler
        if self._iter > 0 and isinstance(batches, EndlessBatchSampler):
            batches.start_at(self._iter)
            # The loop drops so many batches: these are empty.
            self.dataloader_iterator = itertools.chain(itertools.repeat(None, self._iter), iter(self.dataloader))
        return super().run()
