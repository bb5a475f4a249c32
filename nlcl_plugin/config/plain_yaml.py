"""YAML that holds options and nothing else: texts, numbers, booleans, null, lists and blocks.

BasicSR's own loader can run code that stands in an option file.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from nlcl_plugin.errors import InputError

# An alias of an alias of an alias ... would otherwise unfold a few lines into more than the memory holds.
MAX_VALUES = 100_000
MAX_DEPTH = 40
MAX_WHOLE = 2**63  # what torch and numpy can hold
_TOO_DEEP = f"not valid options: blocks and lists stand in each other more than {MAX_DEPTH} deep"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number and a date as text, and refuses a key that stands twice."""

    yaml_constructors = dict(yaml.SafeLoader.yaml_constructors)  # noqa: RUF012  of yaml's own class
    yaml_implicit_resolvers = {  # noqa: RUF012  of yaml's own class
        first: [pair for pair in pairs if pair[0] != _TIMESTAMP]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads back as the same, without references from one place to another."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tool in (_Loader, _Dumper):
    _tool.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(?:\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),  # YAML 1.1 wants a dot and a sign: 1e-4 was text
        list("-+0123456789."),
    )
for _kind in ("timestamp", "binary", "set", "omap", "pairs"):  # are no options
    del _Loader.yaml_constructors[f"tag:yaml.org,2002:{_kind}"]  # as of an unknown tag


def _construct_mapping(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a block", node.start_mark)
    merges = [key for key, _ in node.value if key.tag == "tag:yaml.org,2002:merge"]
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key not in merges]
    seen = set()
    for key in keys:
        if not isinstance(key, str):
            raise InputError(f"the key {key!r} is no text; put it in quotes")
        if key in seen:
            raise InputError(f"the key {key!r} stands twice in the block at line {node.start_mark.line + 1}")
        seen.add(key)
    loader.flatten_mapping(node)  # puts what `<<` refers to before the own keys, which so win
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def parse(text: str) -> Any:
    """Read YAML; nothing in it is evaluated.

    Args:
        text: The text.

    Returns:
        A value of its own for each place in the text: nothing is shared, whatever refers to what in it.

    Raises:
        InputError: If it is no YAML or holds something that is no option.
    """
    try:
        return _plain(yaml.load(text, Loader=_Loader), [], [MAX_VALUES])
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:  # the last three of odd numbers
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(_TOO_DEEP) from error


def dump(options: dict[str, Any]) -> str:
    """Write what `parse` reads back as the same."""
    return yaml.dump(options, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _plain(value: Any, place: list[str], left: list[int]) -> Any:
    """A copy of a value that holds what options can hold; `left` counts down what it may hold yet."""
    where = ".".join(place) or "options"
    left[0] -= 1
    if left[0] < 0:
        raise InputError(f"not valid options: more than {MAX_VALUES:,} values")
    if len(place) > MAX_DEPTH:
        raise InputError(_TOO_DEEP)
    if isinstance(value, dict):
        return {_text(key, where): _plain(entry, [*place, str(key)[:40]], left) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry, [*place, str(i)], left) for i, entry in enumerate(value)]
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, int) and not isinstance(value, bool) and not -MAX_WHOLE <= value < MAX_WHOLE:
        raise InputError(f"{where}: a whole number of {value.bit_length()} bits is too large; it may have 63")
    return value


def _text(text: str, where: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise InputError(f"{where}: the text {text[:40]!a} holds a character that no name can have; take it out")
    return text
