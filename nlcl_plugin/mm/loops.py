"""A training loop that resumes without loading again what was trained on."""

from __future__ import annotations

import itertools
from typing import Any

from mmengine.runner import IterBasedTrainLoop

from nlcl_plugin.mm.data import EndlessBatchSampler


class ResumableTrainLoop(IterBasedTrainLoop):
    """MMEngine's `IterBasedTrainLoop`, which resumes at once where an `EndlessBatchSampler` gives the batches.

    MMEngine loads all batches so far and throws them away: hours, in the middle of a long training.
    """

    def run(self) -> Any:
        """Train."""
        batches = self.dataloader.batch_sampler
        if self._iter > 0 and isinstance(batches, EndlessBatchSampler):
            batches.start_at(self._iter)
            # The loop takes as many batches as there were out of the way: of nothing, now.
            self.dataloader_iterator = itertools.chain(itertools.repeat(None, self._iter), iter(self.dataloader))
        return super().run()
