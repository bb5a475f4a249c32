"""How the C library treats memory that is freed; other libraries than glibc are left as they are."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4

_libc: Any = ctypes.CDLL(None) if sys.platform == "linux" else None


def keep_freed_memory() -> None:
    """Keep freed memory in this process for its next allocations.

    By default glibc returns each freed block of 32 MiB or more, and a large free end of its heap, to the system. On a
    CPU a training step then gets its feature maps as fresh pages, which the system has to clear: up to a third of the
    time.
    """
    if hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_MAX, 0)  # large blocks come from the heap too
        _libc.mallopt(M_TRIM_THRESHOLD, -1)  # never


def give_back_freed_memory() -> None:
    """Return what is free now to the system, once: after work whose sizes are not those of the work to come."""
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
