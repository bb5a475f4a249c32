"""Checkpoints of MMEngine: written whole, plain values only, the old ones removed last."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from mmengine.utils import apply_to

from nlcl_plugin.data.files import remove_leftovers, write_whole
from nlcl_plugin.mm.derain import NLCLDerain
from nlcl_plugin.models.unpaired_iteration import bare
from nlcl_plugin.networks.about import KEY

BACKEND = "nlcl_whole"


class WholeFileBackend(LocalBackend):
    """The local disk, where a file gets its name when it is whole."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write a file."""
        os.makedirs(os.path.dirname(filepath) or ".", exist_ok=True)
        write_whole(filepath, obj)


class _RemovingLater(WholeFileBackend):
    """Notes what is to be removed."""

    def __init__(self) -> None:
        self.paths: list[str | Path] = []

    def remove(self, filepath: str | Path) -> None:
        self.paths.append(filepath)


class WholeCheckpointHook(CheckpointHook):
    """MMEngine's `CheckpointHook` with its arguments, which writes files whole and removes old ones last.

    MMEngine's own writes `iter_N.pth` and `last_checkpoint` in place, and removes the oldest checkpoint, or the best
    one so far, before it writes the next: a kill in the middle leaves a broken file, or none at all.

    Its files contain tensors and plain values only, and which networks of `NLCLDerain` are in them: MMEngine resumes
    from them under `weights_only`, torch's default since 2.6, and `basicsr derain` and others read them without a
    config. For `save_best`, PSNR and SSIM are better high and NIQE low.
    """

    file_backend: Any

    _default_greater_keys = (*CheckpointHook._default_greater_keys, "psnr", "ssim")
    _default_less_keys = (*CheckpointHook._default_less_keys, "niqe")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"backend_args": {"backend": BACKEND}, **kwargs})

    def before_train(self, runner: Runner) -> None:
        """Remove what a killed run left half-written."""
        super().before_train(runner)
        if is_main_process():
            for folder in {str(self.out_dir), runner.work_dir}:
                remove_leftovers(folder)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint plain, and the same for one process and for several."""
        model = bare(runner.model)
        # MMEngine loads no weights with the `module.` of networks that are wrapped by themselves.
        wrapped = tuple(f"{name}.module." for name, child in model.named_children() if is_model_wrapper(child))
        checkpoint["state_dict"] = {
            name.replace(".module.", ".", 1) if name.startswith(wrapped) else name: value
            for name, value in checkpoint["state_dict"].items()
        }
        hub = checkpoint["message_hub"]  # without the history of the log, which only smooths it and is no plain value
        hub.update(log_scalars={}, resumed_keys=dict.fromkeys(hub["runtime_info"], True))
        for key in ("meta", "message_hub"):
            checkpoint[key] = apply_to(checkpoint[key], lambda v: isinstance(v, np.generic), lambda v: v.item())
        if isinstance(model, NLCLDerain):
            checkpoint[KEY] = model.about()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Turn a network file into what `load_from` loads.

        Raises:
            InputError: If it is a file of a network that the model lacks, or of none.
        """
        model = bare(runner.model)
        if isinstance(model, NLCLDerain) and "state_dict" not in checkpoint:
            checkpoint["state_dict"] = model.weights_from(checkpoint, Path(str(runner._load_from)))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            before = list(self.keep_ckpt_ids)
            if step not in before:
                self.keep_ckpt_ids.append(step)  # drops the oldest, if it is full
            outdated = [kept for kept in before if kept not in self.keep_ckpt_ids]
            runner.message_hub.update_info("keep_ckpt_ids", list(self.keep_ckpt_ids))
        self.last_ckpt = self._path(step)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            self.filename_tmpl.format(step),
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_whole(os.path.join(runner.work_dir, "last_checkpoint"), self.last_ckpt.encode())
            for path in filter(self.file_backend.isfile, map(self._path, outdated)):
                self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend, self.file_backend = self.file_backend, _RemovingLater()
        try:
            super()._save_best_checkpoint(runner, metrics)
            outdated = self.file_backend.paths
        finally:
            self.file_backend = backend
        for path in outdated:
            backend.remove(path)

    def _path(self, step: int) -> str:
        return str(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step)))


register_backend(BACKEND, WholeFileBackend, force=True)  # again and again changes nothing
