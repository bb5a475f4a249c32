"""Options checked against their schema, and suggestions for unknown names."""

from __future__ import annotations

import difflib
import inspect
import json
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nlcl_plugin.errors import InputError

T = TypeVar("T", bound=BaseModel)

_MESSAGES = {  # pydantic's, in the words of an option file
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "string_type": "expected a text",
    "tuple_type": "expected a list",
    "list_type": "expected a list",
    "dict_type": "expected a block",
    "model_type": "expected a block",
}

# The last part of a key that can only be a number, in blocks without a schema.
NUMBERS = ("lr", "iter", "weight", "size", "gpu", "decay", "freq")


def check_schema(schema: type[T], block: Any, block_name: str, context: Any = None) -> T:
    """Check a block against its schema; texts are no numbers and true is no 1, but 5e3 is a whole number.

    Args:
        schema: The schema.
        block: The block.
        block_name: Its name, for messages; empty for the whole file.
        context: Called with each `LossBlock` by its validator.

    Returns:
        The values.

    Raises:
        InputError: Naming the first key that is wrong.
    """
    try:
        # As JSON, in which strict validation still takes a list for a tuple.
        text = json.dumps(_whole_numbers(block))
        return schema.model_validate_json(text, strict=True, context=context)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in (block_name, *first["loc"]) if part != "")
        if first["type"] == "extra_forbidden":
            fields = _fields_at(schema, first["loc"][:-1])
            raise InputError(f"{where}: unknown option{suggest(str(first['loc'][-1]), fields)}") from error
        own = first["msg"].removeprefix("Value error, ") if first["type"] == "value_error" else None
        message = own or _MESSAGES.get(first["type"]) or first["msg"][:1].lower() + first["msg"][1:]
        shown = f", but received {first['input']!r}" if not isinstance(first["input"], dict) else ""
        raise InputError(join_message(where, message) + shown) from error


def join_message(where: str, message: str) -> str:
    """Put a block's name before a message, which may begin with the name itself or, after a dot, with a key in it."""
    if where and message.startswith(where):
        return message
    return f"{where}{message}" if message[:1] in (".", ":") else f"{where}: {message}"


def check_numbers(where: str, block: Any) -> None:
    """Refuse text such as `1,5` or `2e-4x` where only a number is possible, and NaN and infinity anywhere."""
    if isinstance(block, dict):
        for key, value in block.items():
            if isinstance(value, str) and key.rpartition("_")[2] in NUMBERS:
                raise InputError(f"{where}.{key}: expected a number, but received the text {value!r}")
            check_numbers(f"{where}.{key}", value)
    elif isinstance(block, list):
        for i, value in enumerate(block):
            check_numbers(f"{where}.{i}", value)
    elif isinstance(block, float) and not math.isfinite(block):
        raise InputError(f"{where}: expected a finite number, but received {block!r}")


def build_once(where: str, make: Callable[[], Any]) -> Any:
    """Build something, so that what its constructor refuses is named by its block.

    Returns:
        What was built.

    Raises:
        InputError: If it was refused.
    """
    try:
        return make()
    except InputError as error:  # ours name the key
        named = not where or str(error).startswith(where)
        raise error if named else InputError(join_message(where, f".{error}")) from error
    except KeyError as error:
        raise InputError(f"{where}.{error.args[0] if error.args else '?'} is missing or unknown") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        kind = "" if isinstance(error, ValueError | AssertionError) and reason else f"{type(error).__name__}: "
        raise InputError(f"{where}: {kind}{reason}") from error


def _whole_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole_numbers(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_numbers(entry) for entry in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 2**63 else value


def _fields_at(schema: Any, path: Iterable[Any]) -> list[str]:
    """Names of the fields of the block that a pydantic error points into."""
    for part in path:
        field = schema.model_fields.get(part) if hasattr(schema, "model_fields") else None
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        schema = next((kind for kind in kinds if hasattr(kind, "model_fields")), None)
    return list(schema.model_fields) if schema is not None else []


def check_known(where: str, block: dict[str, Any], known: Iterable[str], *, refuse: bool) -> None:
    """Refuse keys that are not known, or warn about them; `where` is put before each, with its dot."""
    known = set(known)
    for key in block:
        if key not in known:
            message = f"{where}{key}: unknown option{suggest(key, known)}"
            if refuse:
                raise InputError(message)
            warnings.warn(message, stacklevel=2)


def keys_in_source(cls: type) -> set[str]:
    """What may be an option of a class without a schema: every name in quotes in the source of it and its bases."""
    found: set[str] = set()
    for module in {base.__module__ for base in cls.__mro__ if base is not object}:
        try:
            source = inspect.getsource(sys.modules[module])
        except (OSError, TypeError, KeyError):
            continue
        found.update(re.findall(r"""['"]([A-Za-z_]\w*)['"]""", source))
    return found


def suggest(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, if one is near."""
    close = difflib.get_close_matches(str(name), sorted(map(str, known)), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
