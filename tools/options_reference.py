"""Writes the reference of all options, from the schemas that check them and the docstrings of what they are given to.

Usage: python tools/options_reference.py --output docs/options.md
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import nlcl_plugin  # noqa: F401  mends BasicSR, which is imported next, and registers our parts

# isort: split
import annotated_types
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, LOSS_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from nlcl_plugin.config import blocks as option_blocks
from nlcl_plugin.config.addon_options import AddonOptions
from nlcl_plugin.config.check_parts import FILLED_IN
from nlcl_plugin.config.train_options import Built, OptimizerOptions, TrainOptions
from nlcl_plugin.data.files import write_whole
from nlcl_plugin.errors import exit_code_of
from nlcl_plugin.models.optimization import BASICSR_SCHEDULERS, linear_decay
from nlcl_plugin.rain.variation import RainVariation

Row = tuple[str, str, str, str]  # key, type with range, default, meaning

_WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", Any: "any", dict: "block"}
_BOUNDS = {annotated_types.Ge: ("≥", "ge"), annotated_types.Gt: (">", "gt"), annotated_types.Le: ("≤", "le"),
           annotated_types.Lt: ("<", "lt")}  # fmt: skip

INTRODUCTION = """# Options

*Made by `python tools/options_reference.py --output docs/options.md` of what checks the options; a test keeps it
current. What an option file would do says `basicsr check -opt FILE`.*

An option file is YAML. `_base_: other.yml` (or a list) builds on others: blocks are merged, later wins, and a block
with `_delete_: true` takes nothing over. `~` as a value stands for the default. `--force_yml block:key=value` sets
options from the command line. Numbers may be written `1e-4`; dates are texts. Nothing in a file is ever run. Unknown
keys are refused in the blocks of our own parts, and warned about in those of BasicSR's models and datasets.
"""

NETWORKS = """The letter says what a network is for: `network_g` makes the image layer B (in stock models, the output),
`network_r` the rain layer R (`two_branch`), `network_d` discriminates, `network_p` projects features for contrast,
`network_s` restores (stage 2), `network_e` encodes (`nlcl_opt` with `source: encoder`). `type` is any name of BasicSR's
registry; the other keys are arguments of its constructor. Ours:
"""


def reference() -> str:
    """The reference, as Markdown."""
    return "\n".join(_lines()).rstrip() + "\n"


def _lines() -> Iterator[str]:
    yield INTRODUCTION
    yield "## Top of the file\n"
    yield from _table(fields(option_blocks.TopOptions))
    yield "## `datasets.NAME`\n"
    yield f"{_said(option_blocks.DatasetOptions)}\n"
    yield from _table(fields(option_blocks.DatasetOptions))
    for cls in _ours(DATASET_REGISTRY):
        yield f"### `type: {cls.__name__}`\n\n{_said(cls)}\n"
        yield from _table(dataset_rows(cls))
    yield f"Of BasicSR: {_others(DATASET_REGISTRY)}.\n"
    yield f"## `network_X`\n\n{NETWORKS}"
    for cls in _ours(ARCH_REGISTRY):
        yield f"### `type: {cls.__name__}`\n\n{_said(cls)}\n"
        yield from _table(arguments(cls, leave_out=FILLED_IN.get(cls.__name__, ())))
    yield "## `train` of `NLCLModel`\n"
    yield from _block(TrainOptions, "train")
    yield from _optimization()
    yield from _losses()
    yield "## `train` of other models\n"
    yield f"{_said(option_blocks.StockTrainOptions)} Models with our addition: {_mixed()}.\n"
    yield from _table(fields(option_blocks.StockTrainOptions))
    yield f"### `train.nlcl_opt`\n\n{_said(AddonOptions)}\n"
    yield from _block(AddonOptions, "train.nlcl_opt")
    yield from _rest()


def _optimization() -> Iterator[str]:
    yield "### `train.optim_X`\n"
    yield "Any optimizer of `torch.optim`, with its other arguments. Models of BasicSR know those of `get_optimizer`,"
    yield "in 1.4.2 only Adam; a model class that overrides it makes its own.\n"
    yield from _table(fields(OptimizerOptions))
    yield "### `train.scheduler`\n"
    yield f"Stepped once an iteration. BasicSR's are {', '.join(f'`{name}`' for name in BASICSR_SCHEDULERS)}; its"
    yield "models know no others, unless they override `setup_schedulers`. Ours also know those of"
    yield "`torch.optim.lr_scheduler`, and `LinearDecayLR`:\n"
    yield from _table(arguments(linear_decay, leave_out=("optimizer", "total_iter")))


def _losses() -> Iterator[str]:
    yield "## Losses\n\nBlocks of `train` that end in `_opt` take a `type` and the arguments of that loss. Ours:\n"
    for cls in _ours(LOSS_REGISTRY):
        yield f"### `type: {cls.__name__}`\n\n{_said(cls)}\n"
        yield from _table(arguments(cls))
    yield "BasicSR's, with their defaults:\n"
    for name, cls in sorted(_foreign(LOSS_REGISTRY).items()):
        yield f"- `{name}{inspect.signature(cls)}`"
    yield ""


def _rest() -> Iterator[str]:
    yield f"## `path`\n\n{_said(option_blocks.PathOptions)}\n"
    each = [(f"{row[0]}X", *row[1:]) for row in fields(option_blocks.NetworkPathOptions)]
    yield from _table([*each, *fields(option_blocks.PathOptions)])
    yield "## `val`\n"
    yield from _table(fields(option_blocks.ValOptions))
    yield f"Metrics: {_others(METRIC_REGISTRY)}.\n"
    for name, schema in (("logger", option_blocks.LoggerOptions), ("dist_params", option_blocks.DistOptions)):
        yield f"## `{name}`\n"
        yield from _table(fields(schema))


def _block(schema: type[BaseModel], name: str) -> Iterator[str]:
    """A table of a block, then those of the blocks in it; a loss's own arguments stand with the losses."""
    yield from _table(fields(schema))
    for key, field in schema.model_fields.items():
        inner = next((kind for kind in (field.annotation, *get_args(field.annotation)) if _is_block(kind)), None)
        if inner is None or issubclass(inner, OptimizerOptions) or inner is Built:
            continue
        rows = [row for row in fields(inner) if row[0] != "type"]
        if [row[0] for row in rows] != ["ramp_iter"]:
            yield f"### `{name}.{key}`\n\n{_said(inner)}\n"
            yield from _block(inner, f"{name}.{key}")


def fields(schema: type[BaseModel]) -> list[Row]:
    """The rows of a schema."""
    rows = []
    for key, field in schema.model_fields.items():
        default = "needed" if field.default is PydanticUndefined else shown(field.default)
        assert field.description, f"{schema.__name__}.{key} has no description"
        rows.append((key, words(field.annotation) + _bounds(field.metadata), default, field.description))
    return rows


def arguments(function: Any, leave_out: Collection[str] = ()) -> list[Row]:
    """The rows of a constructor or function with a Google-style docstring, in which every argument stands."""
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    documented = described(inspect.getdoc(function) or "")
    return [
        (key, words(hints[key]), "needed" if p.default is p.empty else shown(p.default), documented[key])
        for key, p in inspect.signature(function).parameters.items()
        if key not in leave_out
    ]


def described(docstring: str) -> dict[str, str]:
    """The arguments of a Google-style docstring."""
    section = re.search(r"^Args:\n((?:    .*\n|\n)*)", docstring + "\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n {8,}.*)*)", section[1] if section else "", re.MULTILINE)
    return {key: " ".join(text.split()) for key, text in entries}


def dataset_rows(cls: Any) -> list[Row]:
    """The options that the docstrings of a dataset and its bases list, except those that every dataset has."""
    docstrings = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in cls.__mro__)
    entries = re.findall(r"^ +- ([^(\n]+) \(([^)]*)\): (.*(?:\n {10,}.*)*)", docstrings, re.MULTILINE)
    rows: list[Row] = []
    for names, kind, text in entries:
        meaning = " ".join(text.split())
        default = re.search(r"Default:\s*([^.]+(?:\.\d+)?)\.", meaning)
        for key in re.split(r", or |, ", names):
            if key not in (*option_blocks.DatasetOptions.model_fields, *(row[0] for row in rows)):
                stated = shown(_value(default[1])) if default else ""
                rest = " ".join(meaning.replace(default[0], "").split()) if default else meaning
                rows.append((key, _named(kind), stated, rest))
    listed = {row[0] for row in rows}
    # Keys with a schema of their own.
    return rows + [row for row in fields(RainVariation) if row[0] in cls.OPTION_KEYS and row[0] not in listed]


def _named(kind: str) -> str:
    known = {"str": "text", "int": "whole number", "bool": "true or false", "float": "number", "dict": "block"}
    first, comma, more = kind.partition(",")
    return known.get(first, first) + comma + more


def _value(text: str) -> Any:
    text = text.strip()
    return {"False": False, "True": True}.get(text, int(text) if text.isdigit() else text)


def _bounds(metadata: Iterable[Any]) -> str:
    return ",".join(
        f" {sign} {getattr(m, name):,}"
        for m in metadata
        for kind, (sign, name) in _BOUNDS.items()
        if isinstance(m, kind)
    )


def words(annotation: Any) -> str:
    """A type in words."""
    if get_origin(annotation) is Annotated:
        kind, *metadata = get_args(annotation)
        return words(kind) + "".join(_bounds(entry.metadata) for entry in metadata if hasattr(entry, "metadata"))
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return " or ".join(words(kind) for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) in (tuple, list, Sequence):
        kinds = get_args(annotation)
        if len(kinds) == 2 and kinds[1] is not Ellipsis:
            return f"[{words(kinds[0])}, {words(kinds[1])}]"
        return f"list of {words(kinds[0])}s"
    if _is_block(annotation) or get_origin(annotation) is dict:
        return "block"
    return _WORDS[annotation]


def shown(value: Any) -> str:
    """A default as an option file has it."""
    if isinstance(value, BaseModel):
        given = {**value.model_dump(exclude_defaults=True), **(value.model_extra or {})}
        return f"`{{{', '.join(f'{key}: {entry}' for key, entry in given.items())}}}`" if given else "its defaults"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {entry}' for key, entry in value.items())}}}`"
    if isinstance(value, list | tuple):
        return f"`{list(value)}`"
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, int | float):
        value = f"{value:g}"
    return f"`{'~' if value is None else value}`" if value != "" else ""


def _table(rows: Any) -> Iterator[str]:
    rows = list(rows)
    if not rows:
        return
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key, kind, default, meaning in rows:
        yield f"| `{key}` | {kind} | {default} | {meaning.replace('|', chr(92) + '|')} |"
    yield ""


def _is_block(kind: Any) -> bool:
    return inspect.isclass(kind) and not isinstance(kind, types.GenericAlias) and issubclass(kind, BaseModel)


def _said(cls: type) -> str:
    return (inspect.getdoc(cls) or "").partition("\n")[0]


def _ours(registry: Any) -> list[Any]:
    found = [cls for _, cls in registry if cls.__module__.startswith("nlcl_plugin.")]
    return sorted(found, key=lambda cls: cls.__name__)


def _foreign(registry: Any) -> dict[str, Any]:
    return {name: cls for name, cls in registry if cls.__module__.startswith("basicsr.")}


def _others(registry: Any) -> str:
    return ", ".join(f"`{name}`" for name in sorted(_foreign(registry)))


def _mixed() -> str:
    return ", ".join(f"`{cls.__name__}`" for cls in _ours(MODEL_REGISTRY) if hasattr(cls, "addon_options"))


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description="Writes the reference of all options, as Markdown.")
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write")
    arguments = parser.parse_args(argv)
    return exit_code_of(lambda: _write(arguments.output))


def _write(output: str) -> int:
    write_whole(output, reference().encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
