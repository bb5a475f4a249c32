"""What a run logs, as JSON lines, exact to the last bit, for plots and for comparing runs."""

from __future__ import annotations

import json
import os
from typing import Any

from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import InputError

_DEPTH = 10  # of lists and objects in each other; ours have 4
_DIGITS = 18  # of whole numbers; larger ones become floats


class JsonLog:
    """`losses.jsonl` and `metrics.jsonl`: a line an entry. A resumed run takes out what came after its checkpoint.

    Args:
        path: The file.
        current_iter: The iteration that the run goes on from, 0 for a new one.

    Raises:
        InputError: If the file holds something else.
    """

    def __init__(self, path: str, current_iter: int) -> None:
        self._path = path
        kept = _lines_up_to(path, current_iter) if current_iter else []
        with written_whole(path) as file:
            file.write("".join(kept).encode())

    def write(self, entry: dict[str, Any]) -> None:
        """Append an entry; `iter` is one of its keys."""
        append(self._path, entry)


def append(path: str | os.PathLike[str], entry: dict[str, Any]) -> None:
    """Append an entry to a file of JSON lines, which is made if it is not there."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json_text(entry) + "\n")


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value, with `null` for every number that is not finite: JSON has no word for those.

    Example:
        >>> json_text({"psnr": 31.5, "ssim": float("nan")})
        '{"psnr": 31.5, "ssim": null}'
    """
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=indent)


def parse_record(text: str | bytes) -> dict[str, Any]:
    """Read a record of ours back: a JSON object that is not deep and whose numbers can be reckoned with.

    Args:
        text: The JSON.

    Returns:
        The object.

    Raises:
        ValueError: If it is none.
    """
    try:
        record = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _DIGITS else float(digits))
    except RecursionError:
        record = None
    if not isinstance(record, dict) or not _is_flat(record, _DEPTH):
        raise ValueError("expected an object, not deep")
    return record


def _is_flat(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 0 and all(_is_flat(entry, depth - 1) for entry in inner)


def read_json_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Read a log, also while it is written and after a kill: a last line that is cut short is left out.

    Args:
        path: The file.

    Returns:
        Its entries; none if there is no file, as in a run of stock BasicSR.

    Raises:
        InputError: If it cannot be read, or a line is no entry.
    """
    return [entry for _, entry in _entries(path)]


def _lines_up_to(path: str, current_iter: int) -> list[str]:
    return [line for line, entry in _entries(path) if entry["iter"] <= current_iter]


def _entries(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    if not os.path.isfile(path):
        return []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if lines and not lines[-1].endswith("\n"):  # cut short by a kill
        del lines[-1]
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_record(line)
            if type(entry.get("iter")) is not int:
                raise ValueError("no iteration")
        except ValueError as error:
            raise InputError(f"{path}: line {number} is no entry of a log; move the file away") from error
        found.append((line, entry))
    return found
