"""Files that are there whole or not at all, also after a kill or a power cut; names, hashes and JSON of files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

_LEFTOVER = re.compile(r".+\.\d+\.tmp")
_LONGEST = 200  # bytes of a name; file systems take 255, and endings and temporary names need room


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for binary writing; it gets its name when it is whole and on the disk.

    Until then a file of that name stays as it was. A kill leaves at most a temporary file beside it, an error nothing.
    """
    path = os.fspath(path)
    temporary = os.path.join(os.path.dirname(path), f"{_shortened(os.path.basename(path), 240)}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    sync_folder(os.path.dirname(path) or ".")


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file as `written_whole` does."""
    with written_whole(path) as file:
        file.write(data)


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Bring new and removed names of a folder to the disk, where the system can."""
    with contextlib.suppress(OSError):  # not every file system or platform opens folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left of `written_whole` in a folder; nobody may be writing there."""
    for path in Path(folder).glob("*.tmp"):
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sort `2.png` before `10.png`; the name itself decides between `1.png` and `01.png`."""
    # Pieces alternate between text and number, so that only like is compared with like.
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", name)], name


def inner_name(name: str) -> str:
    """Make a relative path of a name that comes from a file, such as a key; it leads out of no folder.

    The parts `.` and `..` are left out, and a part that is too long for file systems is cut and gets its hash. The path
    is never empty; a name that can be joined to a folder as it is stays so.

    Example:
        >>> [inner_name(name) for name in ("night/a.b", "../../etc/passwd", "..", "a//./b")]
        ['night/a.b', 'etc/passwd', '_', 'a/b']
    """
    parts = [part for part in name.replace("\0", "_").split("/") if part not in ("", os.curdir, os.pardir)]
    return "/".join(_shortened(part, _LONGEST) for part in parts) or "_"


def _shortened(part: str, longest: int) -> str:
    data = os.fsencode(part)
    if len(data) <= longest:
        return part
    return f"{data[: longest - 13].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:12]}"


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file of any size, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def json_text(value: Any, indent: int | None = None) -> str:
    """JSON of a value, with `null` for every number that is not finite, as JSON has none.

    Example:
        >>> json_text({"psnr": 31.5, "ssim": float("nan")})
        '{"psnr": 31.5, "ssim": null}'
    """
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda _: None), indent=indent)


def parse_record(text: str | bytes) -> dict[str, Any]:
    """Read a record of ours, a JSON object.

    Raises:
        ValueError: If it is none.
    """
    record = json.loads(text)
    if not isinstance(record, dict):
        raise ValueError("expected a JSON object")
    return record
