"""Makes the demonstration data.

Usage: python tools/make_demo_data.py --root datasets/demo
"""

import argparse
import sys

from nlcl_plugin.data.demo_data import make_demo_data
from nlcl_plugin.errors import exit_code_of


def main() -> int:
    parser = argparse.ArgumentParser(description="Makes small unpaired rain data from photographs in scikit-image.")
    parser.add_argument("--root", default="datasets/demo", help="folder to make (default: %(default)s)")
    arguments = parser.parse_args()
    return exit_code_of(lambda: _run(arguments.root))


def _run(root: str) -> int:
    make_demo_data(root)
    print(f"demo data is in {root}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
