"""Training steps on a pretended device: all of it stays there, and the host waits once a step and once a search."""

from pathlib import Path

import numpy as np
import pytest
from model_helpers import RESTORER, build, options, step
from pretended_device import waits

COMPOSITE = {
    "type": "AsymmetricNLCLLoss", "form": "single", "temperature": 0.02,
    "sampling": {"num_queries": 2, "num_positives": 2, "num_negatives": 2, "num_candidates": 2, "patch_size": 4,
                 "search_size": 8},
}  # fmt: skip
LAYER = options(Path())["train"]["layer_opt"]
AT_ONCE = {"start_iter": 0}
STEPS = {
    "residual": ("residual", {}),
    "two branches": ("two_branch", {}),
    "composites": ("residual", {"composite_opt": COMPOSITE}),
    "automatic asymmetry": ("residual", {"layer_opt": {**LAYER, "asymmetry": "auto"}, "dimension_freq": 25}),
    "parts and clipping": ("residual", {"accumulate": 2, "grad_clip": 0.1}),
    "bf16, channels last": ("two_branch", {"amp": "bf16", "channels_last": True}),
    "restorer": ("residual", {**RESTORER, "restorer_opt": AT_ONCE}),
    "restorer's composites": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "composite_opt": COMPOSITE}}),
    "restorer's rounds": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "rounds": [0]}}),
    "varied rain": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "rendered": 0.5, "noise": 0.02,
                                                              "sharpen": 0.5}}),
}  # fmt: skip
# Searches of a step; each waits once, to learn whether any distances are almost equal.
SEARCHES = {"residual": 2, "two branches": 2, "automatic asymmetry": 2, "composites": 3,
            "parts and clipping": 4, "bf16, channels last": 2, "restorer's composites": 1}  # fmt: skip


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_stays_on_the_device_and_waits_once_and_once_a_search(tmp_path, device, kind):
    decomposition, train = STEPS[kind]
    model = build(options(tmp_path, decomposition, **train))
    assert all(p.device == device for net in model.nets.values() for p in net.parameters())
    taken = model.optimize_parameters

    def counted(current_iter):
        waits.clear()
        taken(current_iter)
        found = [wait.rsplit(":")[0] for wait in waits]
        searches = ["_local_scalar_dense at patch_search.py"] * SEARCHES.get(kind, 0)
        assert found == [*searches, "tolist at unpaired_iteration.py"], waits

    model.optimize_parameters = counted
    log = [step(model, current_iter) for current_iter in (1, 2)]
    assert all(np.isfinite(list(values.values())).all() for values in log)
