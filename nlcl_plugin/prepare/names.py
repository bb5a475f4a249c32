"""Names of output files: valid on every system, and no two alike."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from pathlib import PurePosixPath

from nlcl_plugin.data.files import inner_name
from nlcl_plugin.prepare.model import SourceImage

_UNSAFE = set('%/\\:*?"<>|')
_ENDINGS = {".jpeg": ".jpg", ".tif": ".tiff"}


def output_names(sources: list[SourceImage]) -> dict[SourceImage, str]:
    """Name the files of one folder: no two alike, whatever the case, the Unicode form of letters, and the ending.

    A file keeps its name; where two would be the same, all folders of their paths are put in front. Endings become
    lower-case. Characters that some systems cannot store become %XX. The result depends neither on the order of the
    images nor on where the dataset lies.
    """
    short = {source: _safe(PurePosixPath(source.name).name, source) for source in sources}
    counts = Counter(_key(name) for name in short.values())
    names: dict[SourceImage, str] = {}
    taken: set[str] = set()
    for source in sorted(short, key=lambda one: (counts[_key(short[one])] > 1, one.name, one.part, one.path)):
        name, attempt = short[source], 0
        if counts[_key(name)] > 1:
            name = _safe("__".join(PurePosixPath(source.name).parts), source)
        stem, ending = os.path.splitext(name)
        while _key(name) in taken:  # one.png beside one.jpg, A beside a
            mark = hashlib.sha256(repr((source.name, source.part, attempt)).encode()).hexdigest()[:12]
            name, attempt = f"{stem}-{mark}{ending}", attempt + 1
        names[source] = name
        taken.add(_key(name))
    return names


def _key(name: str) -> str:
    # Without the ending, since the keys of an LMDB have none.
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()


def _safe(name: str, source: SourceImage) -> str:
    stem, ending = os.path.splitext(name)
    ending = ".png" if source.part else _ENDINGS.get(ending.lower(), ending.lower())
    if source.is_frame:
        stem += f"_{int(source.part.removeprefix('frame=')):06d}"
    return inner_name("".join(c if c.isprintable() and c not in _UNSAFE else _percent(c) for c in stem)) + ending


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
