"""What was read of the sources, in a file: an interrupted or repeated run decodes nothing again that is unchanged."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import cv2

from nlcl_plugin.data.prepare.model import Facts, Source
from nlcl_plugin.data.prepare.output_folder import write
from nlcl_plugin.data.prepare.scan import is_video
from nlcl_plugin.errors import InputError

# Another version of our code or of OpenCV, which decodes and encodes, may find other facts.
_HEADER = json.dumps({"facts": 2, "opencv": cv2.__version__})


class FactsCache:
    """The facts that earlier runs found, as lines of a file.

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
        header, *lines = path.read_text("ascii", "replace").split("\n") if path and path.is_file() else [""]
        for line in lines if header == _HEADER else []:
            try:
                self._lines[json.dumps(json.loads(line)["key"])] = line
            except (ValueError, TypeError, KeyError):
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
        line = json.loads(self._lines[key])
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
            self._lines[key] = json.dumps(line)
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
