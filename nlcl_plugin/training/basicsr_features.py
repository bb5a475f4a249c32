"""What training adds to BasicSR: whole and complete checkpoints, samples drawn per epoch, processes anywhere.

Applied when BasicSR is imported, so that stock models and scripts have it too; applying it twice changes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nlcl_plugin.compat import TorchWith
from nlcl_plugin.config.blocks import SETTINGS
from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import InputError


def extend_basicsr() -> None:
    """Apply everything in this file."""
    use_epoch_sampler()
    join_processes_anywhere()
    resume_from_whole_checkpoints()
    save_whole_files()
    load_weights_under_any_key()
    save_network_metadata()
    save_extra_state()


def use_epoch_sampler() -> None:
    """Datasets could not know the epoch, and an epoch could not be continued in its middle.

    In the place of `EnlargedSampler`; in one process the order of the images is the same.
    """
    import basicsr.data.data_sampler
    import basicsr.train

    from nlcl_plugin.data.sampler import EpochSampler

    basicsr.data.data_sampler.EnlargedSampler = basicsr.train.EnlargedSampler = EpochSampler


def join_processes_anywhere() -> None:
    """`init_dist` divided by the number of GPUs, used the global rank as device, and ignored the port.

    Under Slurm it took whatever a shell printed for the first host's name, and overruled MASTER_ADDR.
    """
    import basicsr.utils.dist_util

    from nlcl_plugin.training import distributed

    basicsr.utils.dist_util._init_dist_pytorch = distributed.init_process_group
    basicsr.utils.dist_util._init_dist_slurm = distributed.init_process_group_of_slurm


def resume_from_whole_checkpoints() -> None:
    """`load_resume_state` asked for the current CUDA device, and looked for states below the current folder only."""
    import basicsr.train

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        from nlcl_plugin.training import checkpoint  # late, as it needs BasicSR to be extended already

        return checkpoint.load_resume_state(opt)

    basicsr.train.load_resume_state = load_resume_state


def save_whole_files() -> None:
    """A kill left half a checkpoint under its final name, errors were swallowed, and loading one could run code."""
    from basicsr.models import base_model

    base_model.torch = TorchWith(save=_save, load=_load)


def _save(content: Any, path: str) -> None:
    """`torch.save` to a temporary file that gets its name when it is whole and on the disk."""
    try:
        with written_whole(path) as file:
            torch.save(content, file)
    except (OSError, RuntimeError) as error:  # torch raises the latter when a disk is full
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise InputError(
            f"{path}: cannot be saved ({reason}); make room, then resume from the checkpoint before it (--auto_resume)"
        ) from error


def _load(path: str | os.PathLike[str], **_: Any) -> Any:
    """Tensors and plain values; the weights of a .safetensors file are under `params`."""
    from nlcl_plugin.networks.weights import load_plain

    content = load_plain(Path(path))
    return {"params": content} if Path(path).suffix == ".safetensors" else content


def load_weights_under_any_key() -> None:
    """`load_network` knew one key and `params`; models asked for `params_ema` of files that have none."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import get_root_logger

    def load_network(self: Any, net: nn.Module, load_path: str, strict: bool = True, param_key: Any = "params") -> None:
        from nlcl_plugin.networks.weights import weights_key, weights_of

        net, paths = self.get_bare_model(net), self.opt.get("path") or {}
        option = next((key for key, path in paths.items() if "pretrain_network" in key and path == load_path), "")
        given = option.replace("pretrain_network", "param_key")
        keys = (param_key, paths.get(given))  # models load averages by a key of their own
        name = type(net).__name__
        try:
            content = _load(load_path)
            weights = weights_of(content, Path(load_path), *keys)
            get_root_logger().info(f"Loading {name} from {load_path}, with param key: [{weights_key(content, *keys)}].")
            self._print_different_keys_loading(net, weights, strict)
            net.load_state_dict(weights, strict=strict)
        except (InputError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300].replace("param_key_X", given or "param_key_X")
            where, network = (f"path.{option}: ", option.removeprefix("pretrain_")) if option else ("", name)
            raise InputError(f"{where}{load_path} does not fit {network} or is not a checkpoint ({reason})") from error

    BaseModel.load_network = load_network


def save_network_metadata() -> None:
    """A saved network did not say of which architecture it is; see `networks.about`."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils.dist_util import master_only

    @master_only
    def save_network(self: Any, net: Any, net_label: str, current_iter: int, param_key: Any = "params") -> None:
        from nlcl_plugin.networks.about import describe  # late: it imports this package

        nets = [self.get_bare_model(one) for one in (net if isinstance(net, list) else [net])]
        keys = param_key if isinstance(param_key, list) else [param_key]
        content: dict[str, Any] = {}
        for one, key in zip(nets, keys, strict=True):
            content[key] = one.state_dict()
            for name in list(content[key]):
                content[key][name.removeprefix("module.")] = content[key].pop(name).cpu()
        label = net_label.removeprefix("net_")
        if isinstance(self.opt.get(f"network_{label}"), dict):
            last = getattr(self, "current_iter", None) or (self.opt.get("train") or {}).get("total_iter")
            iteration = last if current_iter == -1 else current_iter
            content["about"] = describe(self.opt[f"network_{label}"], label, net=nets[0], iteration=iteration)
            if content["about"]["output"]:
                content["about"].update((k, self.opt[k]) for k in SETTINGS if self.opt.get(k))
            for key in keys:  # for readers that take the weights alone, such as nlcl_plugin.spandrel_support
                content[key]._metadata[""]["about"] = content["about"]
        file = f"{net_label}_{'latest' if current_iter == -1 else current_iter}.pth"
        _save(content, os.path.join(self.opt["path"]["models"], file))

    BaseModel.save_network = save_network


def save_extra_state() -> None:
    """Training states held optimizers and schedules only; what else a model has goes in by `extra_state`."""
    from basicsr.models.base_model import BaseModel
    from basicsr.utils.dist_util import master_only

    @master_only
    def save_training_state(self: Any, epoch: int, current_iter: int) -> None:
        if current_iter == -1:  # the last networks need no state
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            **getattr(self, "extra_state", {}),
        }
        _save(state, os.path.join(self.opt["path"]["training_states"], f"{current_iter}.state"))

    BaseModel.save_training_state = save_training_state
