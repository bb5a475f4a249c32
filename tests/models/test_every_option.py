"""Every key of NLCLModel's schema, and every argument of the losses in it: a change of it changes the training.

What a training makes of its options is seen in its logs, weights, averages, rates and memory layout after a few
iterations of both stages. A change must show there, or be refused.
"""

import copy
import functools
import hashlib
import inspect
from pathlib import Path
from typing import Literal, get_args, get_origin

import model_helpers
import pytest
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import BaseModel

from nlcl_plugin.config.train_options import Built, TrainOptions

COMPOSITE = {"type": "AsymmetricNLCLLoss", "form": "single", "temperature": 0.02, "ramp_iter": 9,
             "sampling": {"num_queries": 4, "num_candidates": 2, "patch_size": 6, "search_size": 12}}  # fmt: skip
SGD = {"type": "SGD", "lr": 0.1}


def every_loss(tmp_path):
    """Every loss, two rounds of stage 2, an average that forgets soon."""
    restorer = {"start_iter": 2, "rounds": [1], "round_gain": [0.5, 0.6], "threshold": 1e-4, "composite_opt": COMPOSITE,
                "pixel_opt": {"type": "L1Loss", "ramp_iter": 9}}  # fmt: skip
    opt = model_helpers.options(tmp_path, "two_branch", optim_s=model_helpers.ADAM, restorer_opt=restorer,
                                composite_opt=COMPOSITE, ema_decay=0.05, min_mean_rain=0, warmup_iter=2)  # fmt: skip
    opt["train"]["optim_d"] = opt["train"]["optim_p"] = SGD
    opt["train"]["location_opt"].update(negatives="similar", num_negatives=4)
    for key in [key for key in opt["train"] if key.endswith("_opt") and key != "restorer_opt"]:
        opt["train"][key] = {"ramp_iter": 9, **opt["train"][key]}
    return opt


def blocks_in(annotation):
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, BaseModel)), None)


def keys(schema, block, where=()):
    """(path, its field or the default of a loss's argument) of all keys, in depth."""
    for name, field in schema.model_fields.items():
        yield (*where, name), field
        inner = blocks_in(field.annotation)
        if inner is not None:
            yield from keys(inner, block.get(name) or {}, (*where, name))
    if issubclass(schema, Built) and block.get("type") in LOSS_REGISTRY:
        for name, parameter in inspect.signature(LOSS_REGISTRY.get(block["type"])).parameters.items():
            if name not in schema.model_fields:
                yield (*where, name), parameter.default


# Where the type alone does not say what to change to. Of a path, the longest end counts.
VALUES = {
    "type": {"AsymmetricNLCLLoss": "RelayLoss", "LocationContrastLoss": "L1Loss", "L1Loss": "MSELoss",
             "MSELoss": "L1Loss", "RelayLoss": "MSELoss", "GANLoss": "L1Loss", "Adam": "SGD", "SGD": "Adam",
             "LinearDecayLR": "CosineAnnealingLR", "MultiStepLR": "LinearDecayLR"},
    "gan_type": "vanilla", "reduction": "sum", "form": "decoupled", "asymmetry": "auto", "negatives": "dissimilar",
    "temperature_image": 0.2, "temperature_rain": 0.2, "rounds": [2], "taps": [0, 1], "modules": ["conv_first"],
    "amp": "bf16", "grad_clip": 1e-3, "ema_decay": 0.5, "accumulate": 3, "min_mean_rain": 1.0, "screen": 1.0,
    "total_iter": 5, "scheduler.decay_from": 0.1, "compile": True,
}  # fmt: skip
# What else must be so for a key to matter.
GIVEN = {
    "on_nonfinite": {"optim_g": {"type": "SGD", "lr": 1e30}},
    "min_mean_rain": {"collapse_iter": 1},
    "collapse_iter": {"min_mean_rain": 1.0, "collapse_iter": 1},
}


def changed(path, field, value):
    """Another value for a key: by the table, else by its type."""
    ends = [".".join(path[start:]) for start in range(len(path))]
    special = next((VALUES[end] for end in ends if end in VALUES), None)
    if isinstance(special, dict):
        return special[value]
    if special is not None:
        return special
    annotation = getattr(field, "annotation", type(field))
    if blocks_in(annotation) is not None:
        return None
    if get_origin(annotation) is Literal:
        return next(other for other in get_args(annotation) if other != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if value > 0.5 else 1.0
    if isinstance(value, list | tuple):
        return [1.1 * entry for entry in value]
    raise AssertionError(f"{'.'.join(path)}: say in VALUES what to change {value!r} to")


def trained(opt):
    """All that shows of a training, or why it is refused."""
    try:
        model = model_helpers.build(opt)
        if opt["train"].get("compile"):  # which takes a minute
            return [net._compiled_call_impl is not None for net in model.nets.values()]
        seen = [type(optimizer).__name__ for optimizer in model.optimizers]
        for current_iter in range(1, 6):
            model.update_learning_rate(current_iter, opt["train"].get("warmup_iter", -1))
            model.feed_data(model_helpers.batch(current_iter))
            model.optimize_parameters(current_iter)
            seen += [dict(model.get_current_log()), [each.param_groups[0]["lr"] for each in model.optimizers]]
        for net in {**model.nets, **model.averages}.values():
            seen += [(hashlib.sha256(p.detach().numpy().tobytes()).hexdigest(), p.stride()) for p in net.parameters()]
    except Exception as error:  # as the rehearsal names any
        return f"{type(error).__name__}: {error}"
    return seen


def options_for(given, folder):
    opt = every_loss(folder)
    opt["train"].update(GIVEN.get(given, {}))
    return copy.deepcopy(opt)


@functools.cache
def before(given, folder):
    found = trained(options_for(given, folder))
    assert isinstance(found, list) or given, found
    return found


def joined(value):
    return ".".join(map(str, value)) if isinstance(value, tuple) else ""


@pytest.mark.slow
@pytest.mark.parametrize(("path", "field"), keys(TrainOptions, every_loss(Path())["train"]), ids=joined)
def test_a_change_of_any_key_changes_the_training_or_is_refused(tmp_path_factory, path, field):
    folder, name = tmp_path_factory.getbasetemp(), ".".join(path)
    opt = options_for(name, folder)
    block = opt["train"]
    for key in path[:-1]:
        if block.get(key) is None:
            block[key] = {}
        block = block[key]
    default = field.get_default(call_default_factory=True) if hasattr(field, "get_default") else field
    block[path[-1]] = changed(path, field, block.get(path[-1], default))
    assert trained(opt) != before(name if name in GIVEN else "", folder), f"{name} = {block[path[-1]]!r}"
