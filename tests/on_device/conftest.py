"""What these tests take from other folders, and the pretended device for all of them."""

import sys
from pathlib import Path

for folder in ("models", "mm", "ops", "report"):
    sys.path.append(str(Path(__file__).parent.parent / folder))

from pretended_device import device  # noqa: E402, F401  a fixture
