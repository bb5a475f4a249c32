"""`python -m nlcl_plugin` is the `basicsr` command, for torchrun."""

import sys

from nlcl_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
