"""The model built and one training step on noise before anything is written, so that what doesn't fit shows at once.

A wrong feature tap, a crop too small for the search, a checkpoint of another network, a loss where another is meant.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

import torch
from basicsr.models import build_model
from basicsr.utils.registry import MODEL_REGISTRY

from nlcl_plugin.errors import InputError, TrainingStoppedError


def rehearse(opt: dict[str, Any], *, full: bool = False) -> dict[str, int]:
    """Build the model from a copy of the options and, for training, take a step of each stage with a batch of noise.

    All models but ours are only built, as what their batches contain is unknown.

    Args:
        opt: Complete, checked options.
        full: Whether the step has the crops of the training; by default the smallest that fit the networks and losses.

    Returns:
        The number of parameters of each network that was built, by its key in the options.

    Raises:
        InputError: If the model cannot be built or take a step.
        TrainingStoppedError: If a step is not finite.
    """
    steps = opt["is_train"] and hasattr(MODEL_REGISTRY.get(opt["model_type"]), "train_options")
    trial = copy.deepcopy(opt)
    trial["dist"] = False
    if steps:
        trial["train"]["compile"] = False  # takes a minute, and would be done twice
        trial["train"]["min_mean_rain"] = 0  # noise has no rain
    elif opt["is_train"]:
        trial["train"].pop("perceptual_opt", None)  # would load, or even download, its weights
    trial["num_gpu"] = min(trial["num_gpu"], 1)
    what = "a training step" if steps else "the model"
    try:
        with silence():
            model = build_model(trial)
            if steps:
                _take_a_step(model, trial, full)
    except (InputError, TrainingStoppedError):
        raise
    except KeyError as error:
        raise InputError(f"{what} with these options fails: {error} is missing or unknown") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"{what} with these options fails: {type(error).__name__}: {reason}") from error
    labels = [key.rpartition("_")[2] for key in opt if key.startswith("network_")]
    nets = {label: getattr(model, f"net_{label}", None) for label in labels}
    return {f"network_{label}": sum(p.numel() for p in net.parameters()) for label, net in nets.items() if net}


def _take_a_step(model: Any, opt: dict[str, Any], full: bool) -> None:
    side = opt["datasets"]["train"]["gt_size"]
    # By 64 smaller: what divides the crops of the training divides these as well.
    smaller = [] if full else [size for size in range(side % 64, side, 64) if size >= 32]
    for size in smaller:
        with contextlib.suppress(ValueError, RuntimeError, AssertionError):
            _step(model, opt, size)
            return
    _step(model, opt, side)


def _step(model: Any, opt: dict[str, Any], size: int) -> None:
    noise = torch.rand(2, opt["datasets"]["train"]["batch_size_per_gpu"], 3, size, size)
    restorer = model.train_opt.restorer_opt
    begins = [restorer.start_iter + end for end in (0, *restorer.rounds[:1])] if restorer else []
    for current_iter in sorted({1, *(begin + 1 for begin in begins)}):
        model.feed_data({"lq": noise[0], "gt": noise[1], "lq_path": ["noise"]})
        model.optimize_parameters(current_iter)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Let builders log nothing, as what they build for a check is built again for the run."""
    logger = logging.getLogger("basicsr")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
