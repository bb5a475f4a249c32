"""YAML that contains options and nothing else: texts, numbers, booleans, null, lists and blocks.

BasicSR's own loader can run code in an option file.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from nlcl_plugin.errors import InputError

_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as a number and a date as text, and refuses a key that occurs twice."""

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
    for number, key in enumerate(keys):
        if not isinstance(key, str):
            raise InputError(f"the key {key!r} is no text; put it in quotes")
        if key in keys[:number]:
            raise InputError(f"the key {key!r} occurs twice in the block at line {node.start_mark.line + 1}")
    loader.flatten_mapping(node)  # puts what `<<` refers to before the own keys, which so win
    return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def parse(text: str) -> Any:
    """Read YAML; nothing in it is evaluated.

    Raises:
        InputError: If it is no YAML or contains something that is no option.
    """
    try:
        return _unshared(yaml.load(text, Loader=_Loader))
    except InputError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"not valid YAML: {' '.join(str(error).split())}") from error


def dump(options: dict[str, Any]) -> str:
    """Write what `parse` reads back as the same."""
    return yaml.dump(options, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _unshared(value: Any) -> Any:
    """A copy in which every reference to a block has a block of its own."""
    if isinstance(value, dict):
        return {key: _unshared(entry) for key, entry in value.items()}
    return [_unshared(entry) for entry in value] if isinstance(value, list) else value
