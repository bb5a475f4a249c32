"""Names of output files: safe on every system, and no two alike."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from pathlib import PurePosixPath

from nlcl_plugin.data.prepare.model import Source

_UNSAFE = set('%/\\:*?"<>|')
_ENDINGS = {".jpeg": ".jpg", ".tif": ".tiff"}
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}  # Windows
_LONGEST = 200  # bytes; file systems take 255, and a key in an LMDB, temporary names and endings need room


def output_names(sources: list[Source]) -> dict[Source, str]:
    """Name the files of one folder.

    A file keeps its name; where two would be the same, all folders of their paths are put in front. Endings become
    lower-case. What some systems cannot store becomes %XX.

    Args:
        sources: The images; the result depends neither on their order nor on where the dataset lies.

    Returns:
        A name for each; no two are alike, whatever the case, the Unicode form of letters, and the ending.
    """
    sources = sorted(set(sources), key=lambda source: (source.name, source.part, source.path))
    short = {source: _safe(PurePosixPath(source.name).name, source) for source in sources}
    # Endings don't count, since an LMDB's keys have none.
    counts = Counter(_key(name) for name in short.values())
    names, taken = {}, set()
    for source in sources:
        if counts[_key(short[source])] == 1:
            names[source] = short[source]
            taken.add(_key(short[source]))
    for source in sources:
        if source in names:
            continue
        name = _safe("__".join(part for part in PurePosixPath(source.name).parts if part != "/"), source)
        whole, attempt = os.path.splitext(name), 0
        while _key(name) in taken:  # one.png beside one.jpg, A beside a
            mark = hashlib.sha256(repr((source.name, source.part, attempt)).encode()).hexdigest()[:12]
            name, attempt = f"{whole[0]}-{mark}{whole[1]}", attempt + 1
        names[source] = name
        taken.add(_key(name))
    return names


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", os.path.splitext(name)[0]).casefold()


def _safe(name: str, source: Source) -> str:
    stem, ending = os.path.splitext(name)
    ending = ".png" if source.part else _ENDINGS.get(ending.lower(), ending.lower())
    if source.part.startswith("frame="):
        stem += f"_{int(source.part.removeprefix('frame=')):06d}"
    safe = "".join(c if c.isprintable() and c not in _UNSAFE else _percent(c) for c in stem)
    if safe.startswith(".") or safe.split(".")[0].rstrip().lower() in _RESERVED:  # hidden files, and Windows' devices
        safe = f"%{ord(safe[0]):02X}{safe[1:]}"
    if len(safe.encode()) > _LONGEST:
        mark = hashlib.sha256(os.fsencode(stem)).hexdigest()[:12]
        safe = safe.encode()[: _LONGEST - 13].decode(errors="ignore") + "-" + mark
    return safe + ending


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
