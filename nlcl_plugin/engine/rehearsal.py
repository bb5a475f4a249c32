"""One training step on noise before anything is written, so that what doesn't fit shows at once.

A wrong feature tap, a crop too small for the search or the discriminator, a checkpoint of another network, a loss where
another is meant: all would otherwise end a run after its folder has replaced that of the run before.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import basicsr.utils.logger
import torch
from basicsr.models import build_model
from basicsr.utils.registry import MODEL_REGISTRY

from nlcl_plugin.errors import InputError, TrainingStoppedError


def rehearse(opt: dict[str, Any]) -> None:
    """Build our model from a copy of the options and take a step of each stage with a batch of noise.

    Models with `NLCLMixin` are only built, which tries out what the mixin adds, and stock models not even that: what
    their batches hold is unknown.

    Args:
        opt: Complete, checked options.

    Raises:
        InputError: If the model cannot be built or take a step.
    """
    model_class = MODEL_REGISTRY.get(opt["model_type"])
    ours, mixed = (hasattr(model_class, name) for name in ("train_options", "mixed_options"))
    if not ours and not (mixed and opt["train"].get("nlcl_opt")):
        return
    trial = copy.deepcopy(opt)
    trial["dist"] = False
    if ours:
        trial["train"]["compile"] = False  # takes a minute, and would be done twice
    trial["num_gpu"] = min(trial["num_gpu"], 1)
    logger = logging.getLogger("basicsr")
    # The builders log, which would open BasicSR's logger for good before its file is known.
    basicsr.utils.logger.initialized_logger["basicsr"] = True
    logger.disabled = True
    try:
        model = build_model(trial)
        if not ours:
            return
        size = trial["datasets"]["train"]["gt_size"]
        noise = torch.rand(2, trial["datasets"]["train"]["batch_size_per_gpu"], 3, size, size)
        restorer = model.train_opt.restorer_opt
        for current_iter in [1] if restorer is None else [1, restorer.start_iter + 1]:
            model.feed_data({"lq": noise[0], "gt": noise[1], "lq_path": ["noise"]})
            model.optimize_parameters(current_iter)
    except (InputError, TrainingStoppedError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"a training step with these options fails: {type(error).__name__}: {reason}") from error
    finally:
        logger.disabled = False
        del basicsr.utils.logger.initialized_logger["basicsr"]
