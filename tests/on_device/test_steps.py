"""Training steps on a pretended device: all of it stays there, and the host waits once a step and once a search."""

from pathlib import Path

import numpy as np
import pytest
import torch
from addon_helpers import EDSR
from model_helpers import RESTORER, batch, build, options, step
from pretended_device import waits

from nlcl_plugin.losses import RelayLoss

COMPOSITE = {
    "type": "AsymmetricNLCLLoss", "form": "single", "temperature": 0.02,
    "sampling": {"num_queries": 2, "num_positives": 2, "num_negatives": 2, "num_candidates": 2, "patch_size": 4,
                 "search_size": 8},
}  # fmt: skip
UNSEARCHED = {**COMPOSITE, "sampling": {**COMPOSITE["sampling"], "neighbours": "random"}}
LAYER = options(Path())["train"]["layer_opt"]
AT_ONCE = {"start_iter": 0}
STEPS = {
    "residual": ("residual", {}),
    "two branches": ("two_branch", {}),
    "composites": ("residual", {"composite_opt": COMPOSITE}),
    "automatic asymmetry": ("residual", {"layer_opt": {**LAYER, "asymmetry": "auto"}, "dimension_freq": 25}),
    "parts and clipping": ("residual", {"accumulate": 2, "grad_clip": 0.1}),
    "bf16, channels last": ("two_branch", {"amp": "bf16", "channels_last": True}),
    "fp16": ("residual", {"amp": "fp16"}),
    "negatives of all images": ("residual", {"layer_opt": {**LAYER, "gather_negatives": True}}),
    "restorer": ("residual", {**RESTORER, "restorer_opt": AT_ONCE}),
    "restorer's composites": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "composite_opt": COMPOSITE}}),
    "random neighbours": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "composite_opt": UNSEARCHED}}),
    "restorer's rounds": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "rounds": [0]}}),
    "varied rain": ("residual", {**RESTORER, "restorer_opt": {
        **AT_ONCE, "rendered": 0.5, "renderer": "photograph", "layers": 2, "screen": 0.5, "air_light": 0.5,
        "noise": 0.02, "sharpen": 0.5}}),
    "JPEG": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "jpeg": 1.0}}),
    "structure": ("residual", {**RESTORER, "restorer_opt": {**AT_ONCE, "structure": 1.0}}),
}  # fmt: skip
RESTORERS = {
    "context": {"type": "ContextUNet", "num_feat": 8, "num_block": 1, "num_late": 1, "num_stat": 8},
    "gated": {"type": "SimpleGateUNet", "num_feat": 8, "enc_blocks": [1], "middle_blocks": 1, "dec_blocks": [1]},
    "EDSR": {**EDSR, "upscale": 1},
}
# Searches of a step; each waits once, to learn whether any distances are almost equal.
SEARCHES = {"residual": 2, "two branches": 2, "automatic asymmetry": 2, "composites": 3, "fp16": 2,
            "negatives of all images": 2, "parts and clipping": 4, "bf16, channels last": 2,
            "restorer's composites": 1}  # fmt: skip
# Images that are changed on the CPU: clean and rainy, of two pairs; clean alone.
COPIES = {"JPEG": ["copy to the CPU at finish.py"] * 4, "structure": ["copy to the CPU at structure.py"] * 2}
SCALED = ["_local_scalar_dense at optimization.py"] * 3  # torch's GradScaler asks for infinities, once an optimizer


def finite_steps(model):
    """Take two steps; the waits of each, without their lines."""
    found = []
    for current_iter in (1, 2):
        model.update_learning_rate(current_iter)
        model.feed_data(batch(current_iter))
        waits.clear()
        model.optimize_parameters(current_iter)
        found.append([wait.rsplit(":")[0] for wait in waits])
        assert np.isfinite(list(model.get_current_log().values())).all()
    return found


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_stays_on_the_device_and_waits_once_and_once_a_search(tmp_path, device, kind):
    decomposition, train = STEPS[kind]
    model = build(options(tmp_path, decomposition, **train))
    assert all(p.device == device for net in model.nets.values() for p in net.parameters())
    searches = ["_local_scalar_dense at patch_search.py"] * SEARCHES.get(kind, 0)
    expected = [
        *searches,
        *COPIES.get(kind, []),
        "tolist at unpaired_iteration.py",
        *(SCALED if kind == "fp16" else []),
    ]
    assert finite_steps(model) == [expected] * 2


@pytest.mark.parametrize("network", RESTORERS)
def test_every_restorer_trains_on_the_device(tmp_path, device, network):
    opt = options(tmp_path, **RESTORER)
    opt["train"]["restorer_opt"] = {**AT_ONCE, "rounds": [1]}
    model = build({**opt, "network_s": RESTORERS[network]})
    # BasicSR's EDSR has its mean on the CPU until its first pass: that of the restorer, then that of its copy.
    first = ["copy to the device at unpaired_iteration.py"] if network == "EDSR" else []
    assert finite_steps(model) == [[*first, "tolist at unpaired_iteration.py"]] * 2


def test_a_tensor_made_on_the_cpu_inside_of_a_loss_is_found(tmp_path, device, monkeypatch):
    forward, model = RelayLoss.forward, build(options(tmp_path))
    monkeypatch.setattr(RelayLoss, "forward", lambda *args: (forward(*args) + torch.zeros(3)).mean())
    with pytest.raises(RuntimeError, match="same device"):
        step(model, 1)
    monkeypatch.setattr(RelayLoss, "forward", lambda *args: (forward(*args) + torch.zeros(3).to(device)).mean())
    assert "copy to the device at unpaired_losses.py" in finite_steps(model)[0]
