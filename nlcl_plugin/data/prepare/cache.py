"""What was read of the sources, in a file: an interrupted or repeated run decodes nothing again that is unchanged."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import zlib
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import cv2

from nlcl_plugin.data.prepare.hashing import BITS
from nlcl_plugin.data.prepare.model import Facts, Source
from nlcl_plugin.data.prepare.output_folder import write
from nlcl_plugin.data.prepare.scan import is_video
from nlcl_plugin.errors import InputError

# Another version of our code or of OpenCV, which decodes and encodes, may find other facts.
_HEADER = json.dumps({"facts": 3, "opencv": cv2.__version__})
_FIELDS = {field.name for field in fields(Facts)}


class FactsCache:
    """The facts that earlier runs found, as lines of a file: a checksum, and JSON.

    A line counts while its source has the same path, size and time of change. Failures are not kept, as they may pass.

    Args:
        path: The file; it is made with the first line. None: nothing is known and nothing is kept.
        every: Of every so many frames of a video, one is taken; the frames of other choices don't count.
    """

    def __init__(self, path: Path | None, every: int) -> None:
        """Read the lines; what is none, as after a kill, is passed over."""
        self._path, self._every = path, every
        self._lines: dict[str, str] = {}
        self._file: io.RawIOBase | None = None
        text = ""
        if path and path.is_file():
            with contextlib.suppress(OSError):  # what cannot be read is not known
                text = path.read_text("ascii", "replace")
        header, *lines = text.split("\n")
        for line in lines if header == _HEADER else []:
            try:
                self._lines[json.dumps(_parsed(line)["key"])] = line
            except ValueError:
                continue

    def key(self, source: Source, status: os.stat_result) -> str:
        """What a source is known by.

        Args:
            source: The source.
            status: What the file system says of it, before it is read.
        """
        every = self._every if is_video(source) else None
        return json.dumps([os.path.abspath(source.path), source.part, status.st_size, status.st_mtime_ns, every])

    def find(self, key: str, source: Source) -> dict[Source, Facts] | None:
        """The facts of a source, or of the frames that were chosen of a video, if they are known."""
        if key not in self._lines:
            return None
        line = _parsed(self._lines[key])
        return {Source(source.path, source.name, part): Facts(**facts) for part, facts in line["images"]}

    def add(self, key: str, images: dict[Source, Facts]) -> None:
        """Keep the facts of a source.

        Raises:
            InputError: If the file cannot be written.
        """
        if self._path is None or key in self._lines:
            return
        line = {"key": json.loads(key), "images": [(one.part, asdict(facts)) for one, facts in images.items()]}
        try:
            if self._file is None:
                self.keep(self._lines)  # a last line that was cut short would spoil the next
                self._file = self._path.open("ab", buffering=0)
            self._lines[key] = sealed(json.dumps(line))
            self._file.write(f"{self._lines[key]}\n".encode())
        except OSError as error:
            raise InputError(f"{self._path}: cannot be written ({error.strerror}); make room") from error

    def keep(self, keys: Iterable[str]) -> None:
        """Write the file anew with the lines of these sources, in their order, and no others."""
        self._lines = {key: self._lines[key] for key in dict.fromkeys(keys) if key in self._lines}
        if self._path is not None:
            write(self._path, "".join(f"{line}\n" for line in (_HEADER, *self._lines.values())).encode())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def sealed(text: str) -> str:
    """Put a checksum before the JSON of a line: a changed digit would else be taken for a fact."""
    return f"{zlib.crc32(text.encode()):08x} {text}"


def _parsed(line: str) -> dict[str, Any]:
    """What a line says.

    Raises:
        ValueError: If it is not as `FactsCache.add` writes it.
    """
    text = line[9:]
    try:
        values = json.loads(text) if line == sealed(text) else None
    except RecursionError:
        values = None
    if not isinstance(values, dict) or set(values) != {"key", "images"} or not _fit(values["key"], values["images"]):
        raise ValueError("no facts")
    return values


def _fit(key: Any, images: Any) -> bool:
    """Whether images are what a source of this key has: itself, or frames."""
    if not isinstance(key, list) or len(key) != 5 or not isinstance(images, list) or not images:
        return False
    if not all(isinstance(one, list) and len(one) == 2 and isinstance(one[0], str) for one in images):
        return False
    parts, frames = [part for part, _ in images], key[4] is not None
    named = all(re.fullmatch(r"frame=\d{1,9}", part, re.ASCII) for part in parts) if frames else parts == [key[1]]
    return named and len(set(parts)) == len(parts) and all(_is_facts(facts) for _, facts in images)


def _is_facts(values: Any) -> bool:
    if not isinstance(values, dict) or set(values) != _FIELDS:
        return False
    counts = [values[name] for name in ("bytes", "width", "height", "modified")]
    bits, digest, brightness = values["dhash"], values["sha256"], values["brightness"]
    return (
        all(type(count) is int and abs(count) < 1 << 63 for count in counts)
        and min(counts[:3]) > 0
        and (bits is None or (type(bits) is int and 0 <= bits < 1 << BITS))
        and isinstance(digest, str)
        and re.fullmatch(r"[0-9a-f]{64}", digest) is not None
        and isinstance(brightness, float)
        and 0 <= brightness <= 1
    )
