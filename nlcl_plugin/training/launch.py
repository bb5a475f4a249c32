"""From a command line to complete, checked options and a running process group."""

from __future__ import annotations

import os
import random
from typing import Any

import torch
from basicsr.utils import set_random_seed

from nlcl_plugin.config.check import check_data, check_options
from nlcl_plugin.config.option_files import complete, load_yaml, override, run_name, without_nulls
from nlcl_plugin.config.rehearsal import rehearse
from nlcl_plugin.data.demo_data import demo_data_is_made, make_demo_data
from nlcl_plugin.errors import InputError, TrainingStoppedError
from nlcl_plugin.training.distributed import check_launcher, from_rank_zero, get_dist_info, join_process_group
from nlcl_plugin.training.memory import keep_freed_memory


def start(
    option_file: str,
    *,
    is_train: bool,
    launcher: str = "none",
    auto_resume: bool = False,
    debug: bool = False,
    force_yml: list[str] | None = None,
    root: str | None = None,
    local_rank: int | None = None,
) -> dict[str, Any]:
    """Read, complete and check the options; join the process group; seed; make demo data if it is asked for.

    The arguments are those of `basicsr train`; `root`, the current folder by default, gets `experiments/`, `results/`
    and `tb_logger/`. Returns the options as BasicSR's `build_*` functions want them; an `InputError` if anything the
    user gave is wrong.
    """
    check_launcher(launcher)
    options = _read(option_file, force_yml, is_train=is_train)
    options["dist"] = launcher != "none"
    if options["dist"]:
        on_gpu = options.get("num_gpu") != 0
        join_process_group(launcher, options.get("dist_params") or {}, local_rank=local_rank, on_gpu=on_gpu)
    options["rank"], options["world_size"] = get_dist_info()
    root = root or os.getcwd()
    if options.get("manual_seed") is None:
        earlier = os.path.join(root, "experiments", run_name(options, debug=debug), "options.yml")
        options["manual_seed"] = from_rank_zero(lambda: _draw_seed(earlier if auto_resume else ""))
    if options.get("demo_data"):
        make_demo_data(options["demo_data"])
    complete(options, root=root, is_train=is_train, auto_resume=auto_resume, debug=debug)
    check_data(options)
    _choose_kernels(deterministic=options.get("deterministic", False))
    if is_train and options["num_gpu"] == 0:
        keep_freed_memory()
    rehearse(options)
    set_random_seed(options["manual_seed"] + options["rank"])
    return options


def dry_run(
    option_file: str, *, force_yml: list[str] | None = None, full: bool = False
) -> tuple[dict[str, Any], dict[str, int], str | None]:
    """Do what `start` does without writing anything; a file with a `train` block is one that trains.

    `full` rehearses with the crops of the training. Returns the options; the number of parameters of each network; the
    folder of demo data that would be made, if any. An `InputError` if anything the user gave is wrong.
    """
    options = _read(option_file, force_yml)
    options.update(dist=False, rank=0, world_size=1)
    seedless = options.get("manual_seed") is None
    if seedless:
        options["manual_seed"] = 0
    demo = options.get("demo_data") or None
    planned = demo if demo and not demo_data_is_made(demo) else None
    complete(options, root=os.getcwd(), is_train="train" in options, auto_resume=False, debug=False)
    check_data(options, planned=planned)
    try:
        sizes = rehearse(options, full=full)
    except TrainingStoppedError as error:
        raise InputError(f"the first training step would stop the training: {error}") from error
    if seedless:
        options["manual_seed"] = None
    return options, sizes, planned


def _read(option_file: str, force_yml: list[str] | None, *, is_train: bool | None = None) -> dict[str, Any]:
    """The checked options of a file, with those of the command line; by default it trains if it has a `train` block."""
    options = load_yaml(option_file)
    override(options, force_yml or [])
    options = without_nulls(options)
    check_options(options, is_train="train" in options if is_train is None else is_train)
    return options


def _draw_seed(earlier: str) -> int:
    """A seed for a run whose options name none; that of its earlier options if it is resumed."""
    drawn = load_yaml(earlier).get("manual_seed") if os.path.exists(earlier) else None
    return drawn if drawn is not None else random.randint(1, 10000)


def _choose_kernels(*, deterministic: bool) -> None:
    """The fastest kernels for the shapes at hand, or those that give the same bits in every run."""
    torch.backends.cudnn.benchmark = not deterministic
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first matrix product is made
