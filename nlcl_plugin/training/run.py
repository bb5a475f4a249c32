"""A whole training or test: from an option file to the results, as a command and as a function."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nlcl_plugin.config.option_files import find_option_file, write_options
from nlcl_plugin.errors import TrainingStoppedError
from nlcl_plugin.training.distributed import leave_process_group, only_run
from nlcl_plugin.training.launch import start
from nlcl_plugin.training.memory import give_back_freed_memory
from nlcl_plugin.training.train import INTERRUPTED
from nlcl_plugin.training.train import test as test_model
from nlcl_plugin.training.train import train as train_model


def run(option_file: str, *, is_train: bool, **start_options: Any) -> tuple[int, str]:
    """Train or test; returns the exit code and the folder of the results. Arguments as of `training.launch.start`."""
    try:
        options = start(option_file, is_train=is_train, **start_options)
        folder = options["path"]["experiments_root" if is_train else "results_root"]
        with only_run(folder):
            try:
                code = train_model(options, option_file) if is_train else test_model(options)
            except TrainingStoppedError:  # which all processes raise
                leave_process_group(4)
                raise
            return leave_process_group(code), folder
    finally:
        if is_train:
            give_back_freed_memory(from_now_on=True)


def train(
    options: str | os.PathLike[str] | Mapping[str, Any],
    *,
    force_yml: Sequence[str] = (),
    auto_resume: bool = False,
    root: str | os.PathLike[str] | None = None,
) -> Path:
    """Train as `basicsr train` does, in this process.

    Args:
        options: An option file, the name of one of the package such as `nlcl_small.yml`, or options as a mapping.
        force_yml: Overrides, items `block:key=value`.
        auto_resume: Continue from the newest training state.
        root: Folder that gets `experiments/` and `tb_logger/`; the current folder by default.

    Returns:
        The folder of the training, which `nlcl_plugin.derain` takes as `weights`.

    Raises:
        InputError: If anything in the options or the data is wrong.
        TrainingStoppedError: If training stopped itself (NaN, collapse).
        KeyboardInterrupt: After an interruption; the state is saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(options, Mapping):
            file = os.path.join(folder, "given_options.yml")
            write_options(file, dict(options))
        else:
            file = find_option_file(os.fspath(options))
        code, experiment = run(
            file,
            is_train=True,
            force_yml=list(force_yml),
            auto_resume=auto_resume,
            root=None if root is None else os.path.abspath(root),
        )
    if code == INTERRUPTED:
        raise KeyboardInterrupt(f"state saved in {experiment}")
    return Path(experiment)
