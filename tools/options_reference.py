"""Writes the reference of all options, docs/options.md.

Usage: python tools/options_reference.py --output docs/options.md
"""

import argparse
import sys

from option_reference_writer import reference

import nlcl_plugin  # noqa: F401  registers what the reference tells of
from nlcl_plugin.data.files import written_whole
from nlcl_plugin.errors import exit_code_of


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the reference of all options, as Markdown.")
    parser.add_argument("--output", metavar="FILE", help="file to write; by default the text is printed")
    arguments = parser.parse_args()
    return exit_code_of(lambda: _run(arguments))


def _run(arguments: argparse.Namespace) -> int:
    text = reference()
    if arguments.output is None:
        print(text, end="")
    else:
        with written_whole(arguments.output) as file:
            file.write(text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
