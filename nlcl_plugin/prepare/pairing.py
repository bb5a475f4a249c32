"""Rules that turn a list of rainy and a list of clean images into pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES
from nlcl_plugin.errors import InputError
from nlcl_plugin.prepare.model import Drop, Paired, SourceImage

Images = list[SourceImage]
Rule = Callable[[Images, Images], Paired]
Key = Callable[[SourceImage], Hashable | None]


def pair_by_key(rainy: Images, clean: Images, rainy_key: Key, clean_key: Key) -> Paired:
    """Pair images that have the same key, or none if it is None; many rainy images may have one clean partner.

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
    return pair_by_key(rainy, clean, lambda source: source.stem, lambda source: source.stem)


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
            raise InputError(f"--rainy-regex {expression[:200]!r}: has no group; put what pairs have in common in ()")
        return lambda source: found.groups() if (found := pattern.search(source.stem)) else None

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
    known = {source.stem for source in clean}

    def key(source: SourceImage) -> Hashable | None:
        name = source.stem
        while name not in known:
            end = max(name.rfind(mark) for mark in "_- ")
            if end <= name.rfind("/") + 1:
                return None
            name = name[:end]
        return name

    return pair_by_key(rainy, clean, key, lambda source: source.stem)


def by_order(rainy: Images, clean: Images) -> Paired:
    """Pair the first with the first, and so on; other counts are refused, as they don't say which image is missing."""
    if len(rainy) != len(clean):
        raise InputError(
            f"{len(rainy)} rainy and {len(clean)} clean images cannot be paired by order; expected equal counts, "
            "choose another --pair-by"
        )
    return list(zip(rainy, clean, strict=True)), []


def by_stem_or_order(rainy: Images, clean: Images) -> Paired:
    """Pair by the path without its ending or, if no two of these are equal, in the order of sorted names."""
    # One missing file would shift all pairs after it, so order is for names that have nothing in common.
    if {source.stem for source in rainy} & {source.stem for source in clean}:
        return by_stem(rainy, clean)
    return by_order(*(sorted(images, key=lambda source: source.name) for images in (rainy, clean)))


def by_list(list_file: Path, rainy: dict[str, SourceImage], clean: dict[str, SourceImage]) -> Paired:
    """Pair as a file says, with `rainy_path clean_path` on each line, among images by their path.

    Paths may contain blanks if they end as images do. Leading slashes and `./` are removed. A line that is repeated
    counts once. What is left out are lines of which an image is missing, and images in no pair.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{list_file}: cannot be read ({error}); expected a text file of pairs") from error
    endings = "|".join(re.escape(ending) for ending in IMAGE_SUFFIXES)
    with_blanks = re.compile(rf"(\S.*?(?:{endings}))\s+(\S.*(?:{endings}))", re.IGNORECASE)
    partners: dict[SourceImage, SourceImage] = {}
    drops = []
    for number, line in enumerate(map(str.strip, lines), 1):
        parts = found.groups() if (found := with_blanks.fullmatch(line)) else line.split()
        names = [re.sub(r"^(?:\./|/)+", "", name.replace("\\", "/")) for name in parts]
        if len(names) not in (0, 2):
            raise InputError(
                f"{list_file}, line {number}: got {line[:200]!r}, expected 'rainy_path clean_path'; correct it, "
                "or give the right list with --list"
            )
        if not names:
            continue
        one, other = rainy.get(names[0]), clean.get(names[1])
        if not one or not other:
            missing = "the clean image is" if one else "the rainy image is" if other else "both images are"
            drops.append(Drop(f"{list_file}: {' '.join(names)}", f"listed, but {missing} missing"))
        elif partners.setdefault(one, other) != other:
            raise InputError(f"{list_file}, line {number}: a second clean image for {one.name}; remove one")
    if not partners and not drops:
        raise InputError(f"{list_file}: contains no pair; expected 'rainy_path clean_path' on each line")
    used = {*partners, *partners.values()}
    unlisted = [source for source in dict.fromkeys((*rainy.values(), *clean.values())) if source not in used]
    return list(partners.items()), drops + [Drop(source.label, "not in a pair of the list") for source in unlisted]
