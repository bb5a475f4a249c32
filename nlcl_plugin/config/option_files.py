"""Read an option file: safe YAML, overrides from the command line, and the fields BasicSR adds at run time."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nlcl_plugin.config.blocks import DatasetOptions, LoggerOptions
from nlcl_plugin.config.plain_yaml import dump, parse
from nlcl_plugin.config.schema import suggest
from nlcl_plugin.data.files import write_whole
from nlcl_plugin.errors import InputError, print_line, rank_in_environment

# Keys of `path` that say where a run writes; they follow from its name.
FOLDERS = ("experiments_root", "results_root", "models", "training_states", "visualization", "log")
# BasicSR's VideoRecurrentGANModel needs this key, and its own option file has no value for it.
_NULLS = {"fix_flow"}
# Of this start of the run, not of what is trained.
_RUN_TIME = {"root_path", "rank", "world_size", "dist", "auto_resume", "is_train"}


def packaged_option_files() -> dict[str, Path]:
    """The option files of the package, and the configs for MMEngine: names such as `nlcl.yml`, and their paths."""
    package = Path(__file__).parents[1]
    folder = package / "options"  # as installed
    if not folder.is_dir():
        folder = package.parent / "options"  # in a clone
    files = (*folder.glob("*.yml"), *folder.glob("mmengine/**/*.py"))
    return {path.relative_to(folder).as_posix(): path for path in sorted(files)}


def find_option_file(path: str, *, folder: str = "") -> str:
    """Find an option file: the path itself, relative to a folder, else one of the package of this name.

    Args:
        path: Such as `mine.yml`, `options/nlcl.yml` or `nlcl.yml`.
        folder: What the path is relative to; the current folder by default.

    Returns:
        The path of a file; of none, if neither is there. A line on stderr says if it is one of the package.
    """
    own = os.path.join(folder, path)
    name = os.path.normpath(path).replace(os.sep, "/").removeprefix("options/")
    packaged = packaged_option_files().get(name) if name.endswith(".yml") else None
    if os.path.isfile(own) or packaged is None:
        return own
    if rank_in_environment() == "0":
        print_line(f"{path}: using the package's option file {packaged}")
    return str(packaged)


def _similar(path: str) -> str:
    return suggest(os.path.basename(path), (name for name in packaged_option_files() if name.endswith(".yml")))


def load_yaml(path: str) -> dict[str, Any]:
    """Load an option file.

    Its key `_base_` names an option file to build on, or a list of them, relative to its own folder, else by the name
    of one of the package. Blocks are merged, and later wins: the files of the list in their order, then the file
    itself. A block with `_delete_: true` replaces the one before it, as in MMEngine.

    Args:
        path: A YAML file.

    Returns:
        The options as plain dicts, without `_base_` and `_delete_`.

    Raises:
        InputError: If a file is missing, not YAML, not a mapping, or built on itself.
    """
    return _load_merged(path, ())


def _load_merged(path: str, above: tuple[str, ...]) -> dict[str, Any]:
    identity = os.path.realpath(path)
    if identity in above:
        names = " → ".join(os.path.basename(name) for name in (*above[above.index(identity) :], identity))
        raise InputError(f"{path}: _base_ leads back to where it began ({names}); remove one of them")
    own = read_yaml(path)
    bases = own.pop("_base_", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f"{path}: _base_: expected an option file or a list of them, but received {bases!r}")
    options: dict[str, Any] = {}
    for base in bases:
        file = find_option_file(os.path.expanduser(base), folder=os.path.dirname(path))
        if not os.path.isfile(file):
            raise InputError(
                f"{path}: _base_: there is no file {file!r}; give it relative to this option file, or the name of one "
                f"of the package (see `basicsr options`){_similar(file)}"
            )
        options = merged(options, _load_merged(file, (*above, identity)), path)
    return merged(options, own, path)


def merged(before: Any, block: dict[str, Any], path: str) -> dict[str, Any]:
    """Merge a block of the file `path` over another one, as `_base_` does, and return it."""
    block = dict(block)
    replaces = block.pop("_delete_", False)
    if not isinstance(replaces, bool):
        raise InputError(f"{path}: _delete_: expected true or false, but received {replaces!r}")
    result = dict(before) if isinstance(before, dict) and not replaces else {}
    for key, value in block.items():
        result[key] = merged(result.get(key), value, path) if isinstance(value, dict) else value
    return result


def read_yaml(path: str) -> dict[str, Any]:
    """Read a YAML file alone, `_base_` and `_delete_` included; see `load_yaml`."""
    try:
        with open(path, encoding="utf-8") as file:
            options = parse(file.read())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        absent = isinstance(error, FileNotFoundError)
        advice = f"; correct the path, or give one of `basicsr options`{_similar(path)}" if absent else ""
        raise InputError(f"cannot read the option file {path!r}: {reason}{advice}") from error
    if not isinstance(options, dict):
        raise InputError(f"{path} must contain a mapping of options, but contains {type(options).__name__}")
    return options


def write_options(path: str, options: dict[str, Any], *, comment: str = "") -> None:
    """Write plain options, below lines of a comment, as a file that `load_yaml` reads back as the same."""
    notes = "".join(f"# {line}\n" for line in comment.splitlines())
    write_whole(path, f"{notes}{dump(options)}".encode())


def override(options: dict[str, Any], entries: list[str]) -> None:
    """Set options in place, as `--force_yml` does; nothing is evaluated.

    Args:
        options: The options.
        entries: Items `block:key=value`, the value in YAML; the block must exist, the key may be new.

    Raises:
        InputError: If an item is malformed or its block doesn't exist.
    """
    for entry in entries:
        keys, separator, text = entry.partition("=")
        path = [key.strip() for key in keys.split(":")]
        if not separator or not all(path) or (len(path) == 1 and "." in keys):
            raise InputError(f"--force_yml: expected block:key=value (colons, no dots), but received {entry!r}")
        try:
            value = parse(text)
        except InputError as error:
            raise InputError(f"--force_yml {entry!r}: {error}") from error
        block: Any = options
        for depth, key in enumerate(path[:-1]):
            if not isinstance(block.get(key), dict):
                hint = suggest(key, block) or f"; set it whole, {key}={{{path[-1]}: {text}}}"
                raise InputError(f"--force_yml {entry!r}: there is no block {':'.join(path[: depth + 1])!r}{hint}")
            block = block[key]
        block[path[-1]] = value


def without_nulls(options: dict[str, Any]) -> dict[str, Any]:
    """Leave out all keys without a value, as `~` means the default.

    Returns:
        A copy. In a dataset's block only keys of `DatasetOptions` are left out, as BasicSR's datasets read nulls.
    """
    kept = {key: value for key, value in options.items() if value is not None or key in _NULLS}
    for key, block in kept.items():
        if key == "datasets" and isinstance(block, dict):
            kept[key] = {name: _without_known_nulls(dataset) for name, dataset in block.items() if dataset is not None}
        elif isinstance(block, dict):
            kept[key] = without_nulls(block)
    return kept


def _without_known_nulls(block: Any) -> Any:
    if not isinstance(block, dict):
        return block
    return {k: value for k, value in block.items() if value is not None or k not in DatasetOptions.model_fields}


def run_name(options: dict[str, Any], *, debug: bool) -> str:
    """The name of a run, which BasicSR's debug mode changes."""
    name: str = options["name"]
    return f"debug_{name}" if debug and not name.startswith("debug") else name


def complete(options: dict[str, Any], *, root: str, is_train: bool, auto_resume: bool, debug: bool) -> None:
    """Add to checked options, in place, what BasicSR's own parser adds: phases, folders and the number of GPUs.

    `root` gets `experiments/`, `results/` and `tb_logger/`; `debug` shortens all intervals, as BasicSR does.
    """
    name = run_name(options, debug=debug)
    options.update(name=name, is_train=is_train, auto_resume=auto_resume, root_path=root)
    options.setdefault("scale", 1)
    if options.get("num_gpu", "auto") == "auto":
        # BasicSR would take all, with a batch for each: another recipe, and batches larger than small folders.
        there = torch.cuda.device_count()
        options["num_gpu"] = there if options.get("dist") else min(there, 1)
    for key, dataset in list(options["datasets"].items()):
        if dataset.pop("optional", False) and not _roots_exist(dataset):
            warnings.warn(f"datasets.{key} is left out: its folders don't exist and it is optional", stacklevel=2)
            del options["datasets"][key]
        else:
            _complete_dataset(key, dataset, options)
    paths = options["path"] = {key: value for key, value in options.get("path", {}).items() if key not in FOLDERS}
    folder = os.path.join(root, "experiments" if is_train else "results", name)
    paths.update(log=folder, visualization=os.path.join(folder, "visualization"))
    paths["experiments_root" if is_train else "results_root"] = folder
    if is_train:
        paths.update({key: os.path.join(folder, key) for key in ("models", "training_states")})
        options["logger"] = {**LoggerOptions().model_dump(exclude_none=True), **options.get("logger", {})}
        if "debug" in name:
            options["logger"].update(print_freq=1, save_checkpoint_freq=8)
            if "val" in options:
                options["val"]["val_freq"] = 8
    if "val" in options or any(key != "train" for key in options["datasets"]):  # without the block: once, at the end
        options["val"] = {"save_img": not is_train, "suffix": None, "val_freq": 5000, **options.get("val", {})}


def _complete_dataset(name: str, dataset: dict[str, Any], options: dict[str, Any]) -> None:
    for key, value in (("phase", name.split("_")[0]), ("scale", options["scale"])):
        if dataset.get(key, value) != value:
            warnings.warn(f"datasets.{name}.{key}: is not read; {value!r} is filled in", stacklevel=3)
        dataset[key] = value
    dataset.setdefault("name", name)
    dataset.setdefault("io_backend", {"type": "disk"})
    dataset.setdefault("manual_seed", options.get("manual_seed"))
    if dataset["phase"] == "train":
        dataset.setdefault("longest_side", options.get("longest_side"))
        dataset.setdefault("num_worker_per_gpu", 0)
    for key in ("dataroot_gt", "dataroot_lq"):
        if dataset.get(key) is not None:
            dataset[key] = os.path.expanduser(str(dataset[key]))
    if dataset.get("pin_memory") and not torch.cuda.is_available():
        dataset["pin_memory"] = False  # pinning needs a GPU; torch would warn at every epoch


def _roots_exist(dataset: dict[str, Any]) -> bool:
    roots = [dataset[key] for key in ("dataroot_lq", "dataroot_gt") if dataset.get(key) is not None]
    return all(os.path.exists(os.path.expanduser(str(root))) for root in roots)


def plain_options(opt: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the options that say what is trained, as plain values.

    Call it before anything is built or resumed: BasicSR takes entries out of its options, and puts paths in.

    Returns:
        Nested dicts and lists of texts, numbers, booleans and None, without what belongs to one start of the run.
    """
    options = {key: value for key, value in opt.items() if key not in _RUN_TIME}
    if isinstance(options.get("path"), Mapping):
        options["path"] = {
            key: value for key, value in options["path"].items() if key not in (*FOLDERS, "resume_state")
        }
    return plain(options)


def plain(value: Any) -> Any:
    """Turn a value into plain dicts, lists, texts and numbers; numpy's scalars into Python's, the unknown into text."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return value.item()
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def difference(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List what changed from one set of plain options to another, in a line each.

    Example:
        >>> difference({"lr": 2e-4, "val": {"val_freq": 10}}, {"lr": 1e-4, "train": {"amp": "bf16"}})
        ['lr: 0.0002 → 0.0001', 'val: removed', 'train: added']
        >>> difference({"train": {}}, {"train": {"amp": "bf16"}})
        ["train.amp: added, 'bf16'"]
    """
    lines = []
    for key in {**before, **now}:
        where = f"{prefix}{key}"
        if key in before and key in now:
            if isinstance(before[key], Mapping) and isinstance(now[key], Mapping):
                lines += difference(before[key], now[key], f"{where}.")
            elif before[key] != now[key]:
                lines.append(f"{where}: {before[key]!r} → {now[key]!r}")
        else:
            change, value = ("removed", before[key]) if key in before else ("added", now[key])
            lines.append(f"{where}: {change}{'' if isinstance(value, Mapping) else f', {value!r}'}")
    return lines
