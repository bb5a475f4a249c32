"""Say which clean image belongs to which rainy one: rules that turn two lists of images into pairs."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable
from pathlib import Path, PurePosixPath

from nlcl_plugin.data.image_io import IMAGE_SUFFIXES
from nlcl_plugin.data.prepare.model import Drop, Shot, Source, Split, examples
from nlcl_plugin.data.prepare.scan import stem
from nlcl_plugin.errors import InputError, escape

NO_CLEAN = "rainy image without a clean partner"
NO_RAINY = "clean image without a rainy partner"
UNLISTED = "in no whole pair of the list"
Key = Callable[[Source], Hashable | None]


def make_shots(
    pairs: list[tuple[Source, Source]],
    scene: Callable[[Source], str] = lambda clean: stem(clean.name),
    split: Split | None = None,
) -> list[Shot]:
    """Make shots of pairs; each clean image counts once, however many rainy ones it belongs to.

    Args:
        pairs: Rainy and clean images.
        scene: Names the scene of a clean image.
        split: The dataset's own split.

    Returns:
        The shots.
    """
    clean = [Shot(source, "clean", scene(source), split) for source in dict.fromkeys(pair[1] for pair in pairs)]
    return [Shot(rainy, "rainy", scene(twin), split, twin) for rainy, twin in pairs] + clean


def pair_by_key(
    rainy: list[Source], clean: list[Source], rainy_key: Key, clean_key: Key
) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair images that have the same key; many rainy images may share a clean one.

    Args:
        rainy: The rainy images.
        clean: The clean images.
        rainy_key: Gives the key of a rainy image, or None if its name has none.
        clean_key: The same for clean images.

    Returns:
        The pairs and the images that have no partner.

    Raises:
        InputError: If two clean images have the same key.
    """
    index: dict[Hashable, Source] = {}
    for source in clean:
        key = clean_key(source)
        if key is None:
            continue
        if key in index:
            raise InputError(
                f"{escape(source.path)}: pairs with the same rainy images as {escape(index[key].path)}; "
                "expected one clean image for each, remove one or choose another --pair-by"
            )
        index[key] = source
    pairs, drops, used = [], [], set()
    for source in rainy:
        key = rainy_key(source)
        if key is not None and key in index:
            pairs.append((source, index[key]))
            used.add(index[key])
        else:
            drops.append(Drop(source.label, NO_CLEAN))
    drops += [Drop(source.label, NO_RAINY) for source in clean if source not in used]
    return pairs, drops


def by_stem(rainy: list[Source], clean: list[Source]) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair by the path without its ending."""
    return pair_by_key(rainy, clean, lambda s: stem(s.name), lambda s: stem(s.name))


def by_affix(
    rainy: list[Source], clean: list[Source], rainy_name: str, clean_name: str
) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair by what stands in the place of `{}` in file names without ending, such as `{}_rain` and `{}_clean`.

    Raises:
        InputError: If there is not one `{}` in each.
    """

    def key(template: str) -> Key:
        if template.count("{}") != 1:
            raise InputError(f"{template!r}: expected a name with one {{}}, such as {{}}_rain; correct it")
        before, after = template.split("{}")

        def find(source: Source) -> Hashable | None:
            path = PurePosixPath(stem(source.name))
            if not (path.name.startswith(before) and path.name.endswith(after)):
                return None
            core = path.name[len(before) : len(path.name) - len(after)]
            return (str(path.parent), core) if core else None

        return find

    return pair_by_key(rainy, clean, key(rainy_name), key(clean_name))


def by_regex(
    rainy: list[Source], clean: list[Source], rainy_regex: str, clean_regex: str
) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair by the groups that a regular expression finds in paths without ending.

    Raises:
        InputError: If an expression is wrong or has no group.
    """

    def key(expression: str) -> Key:
        pattern = compiled(expression)
        if not pattern.groups:
            raise InputError(f"{expression[:200]!r}: has no group; put the part that pairs share into brackets")

        def find(source: Source) -> Hashable | None:
            found = pattern.search(stem(source.name))
            return found.groups() if found else None

        return find

    return pair_by_key(rainy, clean, key(rainy_regex), key(clean_regex))


def compiled(expression: str) -> re.Pattern[str]:
    """Compile a regular expression that a user gave.

    Raises:
        InputError: If it is none.
    """
    try:
        return re.compile(expression)
    except (re.error, OverflowError, RecursionError) as error:  # the last two of huge counts and many brackets
        raise InputError(f"{expression[:200]!r}: is no regular expression ({error}); correct it") from error


def by_leading_id(rainy: list[Source], clean: list[Source]) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair `1_14` with `1` and `im_0001_s80_a04` with `im_0001`: the longest clean name that the rainy one begins with.

    A name is cut only before `_`, `-` or a blank, so that `12_3` is never taken for a rainy `1`.
    """
    known = {stem(source.name) for source in clean}

    def key(source: Source) -> Hashable | None:
        name = stem(source.name)
        while name not in known:
            place = max(name.rfind(mark) for mark in "_- ")
            if place <= name.rfind("/") + 1:
                return None
            name = name[:place]
        return name

    return pair_by_key(rainy, clean, key, lambda s: stem(s.name))


def by_order(rainy: list[Source], clean: list[Source]) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair the first with the first, and so on.

    Raises:
        InputError: If the counts differ, since nothing then says which images are missing.
    """
    if len(rainy) != len(clean):
        raise InputError(
            f"{len(rainy)} rainy and {len(clean)} clean images cannot be paired by order; expected equal counts, "
            "choose another --pair-by"
        )
    return list(zip(rainy, clean, strict=True)), []


def by_list(
    rainy: list[Source], clean: list[Source], list_file: Path
) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Pair as a file says: `rainy_path clean_path` on each line, below the two folders; leading slashes are ignored.

    Raises:
        InputError: If the file cannot be read or a line is not of that form.
    """
    pairs, drops = match_list(list_file, {s.name: s for s in rainy}, {s.name: s for s in clean})
    used = {source for pair in pairs for source in pair}
    return pairs, drops + [Drop(s.label, UNLISTED) for s in dict.fromkeys(rainy + clean) if s not in used]


def match_list(
    list_file: Path, rainy: dict[str, Source], clean: dict[str, Source]
) -> tuple[list[tuple[Source, Source]], list[Drop]]:
    """Find the images of a list of pairs; a line that is repeated counts once.

    Args:
        list_file: The list, as for `read_pair_list`.
        rainy: The rainy images by their names in the list.
        clean: The clean images by theirs.

    Returns:
        The pairs, and the lines of which an image is missing.

    Raises:
        InputError: If the list cannot be read or gives a rainy image two clean ones.
    """
    pairs, drops = [], []
    for names in dict.fromkeys(read_pair_list(list_file)):
        one, other = rainy.get(names[0]), clean.get(names[1])
        if one and other:
            pairs.append((one, other))
        else:
            missing = "the clean image is" if one else "the rainy image is" if other else "both images are"
            drops.append(Drop(f"{list_file}: {' '.join(names)}", f"listed, but {missing} missing"))
    seen: dict[Source, Source] = {}
    twice = [shot.name for shot, twin in pairs if seen.setdefault(shot, twin) != twin]
    if twice:
        raise InputError(f"{list_file}: gives two clean images to {escape(examples(twice))}; expected one, correct it")
    return pairs, drops


def read_pair_list(list_file: Path) -> list[tuple[str, str]]:
    """Read a list of pairs.

    Args:
        list_file: A text file with `rainy_path clean_path` on each line. Paths may hold blanks if they end as images
            do. Leading slashes and `./` are taken off.

    Returns:
        The paths.

    Raises:
        InputError: If it cannot be read, holds no pair, or a line is not of that form or leaves the folder.
    """
    try:
        lines = list_file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{list_file}: cannot be read ({error}); expected a text file of pairs") from error
    endings = "|".join(re.escape(ending) for ending in IMAGE_SUFFIXES)
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2:
            found = re.fullmatch(rf"\s*(\S.*?(?:{endings}))\s+(\S.*(?:{endings}))\s*", line, re.IGNORECASE)
            fields = [found[1], found[2]] if found else []
        names = [re.sub(r"^(?:\./|/)+", "", name.replace("\\", "/")) for name in fields]
        if len(names) != 2 or any(".." in PurePosixPath(name).parts or not name for name in names):
            raise InputError(
                f"{list_file}, line {number}: got {escape(line.strip()[:200])!r}, expected 'rainy_path clean_path' "
                "below the folder; correct it, or give the right list with --list"
            )
        pairs.append((names[0], names[1]))
    if not pairs:
        raise InputError(f"{list_file}: holds no pair; expected 'rainy_path clean_path' on each line")
    return pairs
