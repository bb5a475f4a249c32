"""Rules that turn a list of rainy and a list of clean images into pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES
from nlcl_plugin.errors import InputError
from nlcl_plugin.prepare.model import Drop, LabelledImage, SourceImage, Split
from nlcl_plugin.prepare.scan import stem

UNLISTED = "in no whole pair of the list"

Images = list[SourceImage]
Paired = tuple[list[tuple[SourceImage, SourceImage]], list[Drop]]  # pairs, and images without a partner
Key = Callable[[SourceImage], Hashable | None]


def label_pairs(
    pairs: list[tuple[SourceImage, SourceImage]],
    scene: Callable[[SourceImage], str] = lambda clean: stem(clean.name),
    split: Split | None = None,
) -> list[LabelledImage]:
    """Label the images of pairs; `scene` returns the scene of a clean image, which may belong to many rainy ones."""
    clean = [LabelledImage(one, "clean", scene(one), split) for one in dict.fromkeys(pair[1] for pair in pairs)]
    return [LabelledImage(rainy, "rainy", scene(twin), split, twin) for rainy, twin in pairs] + clean


def pair_by_key(rainy: Images, clean: Images, rainy_key: Key, clean_key: Key) -> Paired:
    """Pair images that have the same key, or none if it is None; many rainy images may share a clean one.

    Raises:
        InputError: If two clean images have the same key.
    """
    by_key: dict[Hashable, SourceImage] = {}
    for source in clean:
        key = clean_key(source)
        if key is not None and by_key.setdefault(key, source) != source:
            raise InputError(
                f"{source.path}: pairs with the same rainy images as {by_key[key].path}; "
                "expected one clean image for each, remove one or choose another --pair-by"
            )
    pairs = [(source, by_key[key]) for source in rainy if (key := rainy_key(source)) in by_key]
    used = {source for pair in pairs for source in pair}
    drops = [Drop(source.label, "rainy image without a clean partner") for source in rainy if source not in used]
    drops += [Drop(source.label, "clean image without a rainy partner") for source in clean if source not in used]
    return pairs, drops


def by_stem(rainy: Images, clean: Images) -> Paired:
    """Pair by the path without its ending."""
    return pair_by_key(rainy, clean, lambda s: stem(s.name), lambda s: stem(s.name))


def by_affix(rainy: Images, clean: Images, rainy_name: str, clean_name: str) -> Paired:
    """Pair by what replaces `{}` in file names without ending, such as `{}_rain` and `{}_clean`."""
    for form in (rainy_name, clean_name):
        if form.count("{}") != 1:
            raise InputError(f"{form!r}: expected a name with one {{}}, such as {{}}_rain; correct it")
    before_after = [map(re.escape, form.split("{}")) for form in (rainy_name, clean_name)]
    return by_regex(rainy, clean, *(rf"^(.*/)?{before}([^/]+){after}$" for before, after in before_after))


def by_regex(rainy: Images, clean: Images, rainy_regex: str, clean_regex: str) -> Paired:
    """Pair by the groups that a regular expression finds in paths without ending."""

    def key(expression: str) -> Key:
        pattern = compiled(expression)
        if not pattern.groups:
            raise InputError(f"--rainy-regex {expression[:200]!r}: has no group; put what pairs share into brackets")
        return lambda source: found.groups() if (found := pattern.search(stem(source.name))) else None

    return pair_by_key(rainy, clean, key(rainy_regex), key(clean_regex))


def compiled(expression: str) -> re.Pattern[str]:
    """Compile a user's regular expression; an invalid one is an `InputError`."""
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:  # the last two for huge counts and many brackets
        raise InputError(f"{expression[:200]!r}: is no regular expression ({error}); correct it") from error


def by_leading_id(rainy: Images, clean: Images) -> Paired:
    """Pair `1_14` with `1` and `im_0001_s80_a04` with `im_0001`: the longest clean name that the rainy one begins with.

    A name is cut only before `_`, `-` or a blank, so that `12_3` is never taken for a rainy `1`.
    """
    known = {stem(source.name) for source in clean}

    def key(source: SourceImage) -> Hashable | None:
        name = stem(source.name)
        while name not in known:
            end = max(name.rfind(mark) for mark in "_- ")
            if end <= name.rfind("/") + 1:
                return None
            name = name[:end]
        return name

    return pair_by_key(rainy, clean, key, lambda s: stem(s.name))


def by_order(rainy: Images, clean: Images) -> Paired:
    """Pair the first with the first, and so on; other counts are refused, as they don't say which image is missing."""
    if len(rainy) != len(clean):
        raise InputError(
            f"{len(rainy)} rainy and {len(clean)} clean images cannot be paired by order; expected equal counts, "
            "choose another --pair-by"
        )
    return list(zip(rainy, clean, strict=True)), []


def by_list(rainy: Images, clean: Images, list_file: Path) -> Paired:
    """Pair as a file says; see `match_list`."""
    pairs, drops = match_list(list_file, {s.name: s for s in rainy}, {s.name: s for s in clean})
    used = {source for pair in pairs for source in pair}
    return pairs, drops + [Drop(s.label, UNLISTED) for s in dict.fromkeys(rainy + clean) if s not in used]


def match_list(list_file: Path, rainy: dict[str, SourceImage], clean: dict[str, SourceImage]) -> Paired:
    """Find the images of a list of pairs, and the lines of which an image is missing.

    The list has `rainy_path clean_path` on each line. Paths may contain blanks if they end as images do. Leading
    slashes and `./` are removed. A line that is repeated counts once.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{list_file}: cannot be read ({error}); expected a text file of pairs") from error
    endings = "|".join(re.escape(ending) for ending in IMAGE_SUFFIXES)
    with_blanks = re.compile(rf"(\S.*?(?:{endings}))\s+(\S.*(?:{endings}))", re.IGNORECASE)
    partners: dict[SourceImage, SourceImage] = {}
    drops = {}
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line:
            continue
        found = with_blanks.fullmatch(line)
        names = [
            re.sub(r"^(?:\./|/)+", "", name.replace("\\", "/")) for name in (found.groups() if found else line.split())
        ]
        if len(names) != 2:
            raise InputError(
                f"{list_file}, line {number}: got {line[:200]!r}, expected 'rainy_path clean_path'; correct it, "
                "or give the right list with --list"
            )
        one, other = rainy.get(names[0]), clean.get(names[1])
        if not one or not other:
            missing = "the clean image is" if one else "the rainy image is" if other else "both images are"
            drops[line] = Drop(f"{list_file}: {' '.join(names)}", f"listed, but {missing} missing")
        elif partners.setdefault(one, other) != other:
            raise InputError(f"{list_file}, line {number}: a second clean image for {one.name}; remove one")
    if not partners and not drops:
        raise InputError(f"{list_file}: contains no pair; expected 'rainy_path clean_path' on each line")
    return list(partners.items()), list(drops.values())
