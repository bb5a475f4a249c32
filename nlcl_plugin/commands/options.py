"""List the option files of the package, or copy them into a folder, to be edited.

Usage: basicsr options
       basicsr options --copy DIR

`train`, `test` and `check` find a .yml of this list by its name, from any folder; those in mmengine/ are for MMEngine.
A copy of your own may build on one by its name: `_base_: nlcl_small.yml`.

Exit codes: 0 done, 2 bad usage or input.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from nlcl_plugin.errors import InputError, counted, writing_to


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("--copy", metavar="DIR", help="folder that gets them; nothing in it is replaced")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from nlcl_plugin.config.option_files import packaged_option_files

    files = packaged_option_files()
    if arguments.copy is None:
        width = max(map(len, files))
        print("\n".join(f"{name:{width}}  {_first_sentence(path)}" for name, path in files.items()))
        return 0
    targets = {Path(arguments.copy).expanduser() / name: path for name, path in files.items()}
    for target, path in targets.items():
        if target.exists() and not (target.is_file() and target.read_bytes() == path.read_bytes()):
            raise InputError(f"{target}: is another file, and is not replaced; move it, or choose another folder")
    there = [target for target in targets if target.exists()]
    with writing_to(arguments.copy):
        for target, path in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            if target not in there:
                target.write_bytes(path.read_bytes())
    kept = f", {len(there)} already there" if there else ""
    print(f"{arguments.copy}: {counted(len(targets) - len(there), 'option file')} written{kept}")
    return 0


def _first_sentence(path: Path) -> str:
    comment = path.read_text(encoding="utf-8").lstrip('#" ')
    return re.split(r"[.:;] |[.:]?\"*\n", comment, maxsplit=1)[0]
