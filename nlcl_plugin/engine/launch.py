"""From a command line to complete, checked options and a running process group."""

from __future__ import annotations

import os
import random
from typing import Any

import torch
from basicsr.utils import set_random_seed
from basicsr.utils.dist_util import get_dist_info, init_dist

from nlcl_plugin.data.demo_data import make_demo_data
from nlcl_plugin.engine.options import complete, load_yaml, override
from nlcl_plugin.engine.rehearsal import rehearse
from nlcl_plugin.engine.validate import check, check_shape
from nlcl_plugin.errors import InputError


def start(
    option_file: str,
    *,
    is_train: bool,
    launcher: str = "none",
    auto_resume: bool = False,
    debug: bool = False,
    force_yml: list[str] | None = None,
    root: str | None = None,
) -> dict[str, Any]:
    """Read, complete and check the options; join the process group; seed; make demo data if it is asked for.

    Args:
        option_file: A YAML option file, ours or stock BasicSR's.
        is_train: Train or test.
        launcher: `none`, `pytorch` (torchrun) or `slurm`.
        auto_resume: Go on from the newest training state.
        debug: BasicSR's debug mode: short intervals, `debug_` before the name.
        force_yml: Overrides, items `block:key=value`.
        root: Folder that gets `experiments/`, `results/` and `tb_logger/`; the current folder by default.

    Returns:
        The options as BasicSR's `build_*` functions want them.

    Raises:
        InputError: If anything the user gave is wrong.
    """
    options = load_yaml(option_file)
    override(options, force_yml or [])
    check_shape(options, is_train=is_train)
    options["dist"] = launcher != "none"
    if options["dist"]:
        _join_process_group(launcher, options.get("dist_params") or {})
    options["rank"], options["world_size"] = get_dist_info()
    if options.get("manual_seed") is None:
        options["manual_seed"] = random.randint(1, 10000)
    if not isinstance(options["manual_seed"], int):
        raise InputError(f"manual_seed: expected a whole number, but received {options['manual_seed']!r}")
    if options.get("demo_data"):
        if not isinstance(options["demo_data"], str):
            raise InputError(f"demo_data: expected a folder, but received {options['demo_data']!r}")
        make_demo_data(options["demo_data"])
    complete(options, root=root or os.getcwd(), is_train=is_train, auto_resume=auto_resume, debug=debug)
    check(options)
    if is_train:
        rehearse(options)
    set_random_seed(options["manual_seed"] + options["rank"])
    torch.backends.cudnn.benchmark = True
    return options


def _join_process_group(launcher: str, parameters: dict[str, Any]) -> None:
    missing = [key for key in ("RANK", "WORLD_SIZE") if launcher == "pytorch" and key not in os.environ]
    if missing:
        raise InputError(
            f"--launcher pytorch: {' and '.join(missing)} are not set; start with "
            "`torchrun --nproc_per_node=N -m nlcl_plugin train -opt ... --launcher pytorch`"
        )
    init_dist(launcher, **parameters)
