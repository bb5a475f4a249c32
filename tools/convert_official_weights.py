"""`basicsr convert` as a script."""

import sys

from nlcl_plugin.cli import main as basicsr


def main(argv=None) -> int:
    return basicsr(["convert", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
