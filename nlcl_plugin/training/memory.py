"""How the C library treats memory that is freed; other libraries than glibc are left as they are."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Parameters of mallopt(3), and what glibc begins with, from its malloc.h.
M_TRIM_THRESHOLD, TRIM_THRESHOLD = -1, 128 * 1024
M_MMAP_MAX, MMAP_MAX = -4, 65536

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


def give_back_freed_memory(*, from_now_on: bool = False) -> None:
    """Return what is free to the system: after work whose sizes are not those of the work to come.

    Args:
        from_now_on: Undo `keep_freed_memory`, as after a training in a notebook.
    """
    if from_now_on and hasattr(_libc, "mallopt"):
        _libc.mallopt(M_MMAP_MAX, MMAP_MAX)
        _libc.mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)
    if hasattr(_libc, "malloc_trim"):
        _libc.malloc_trim(0)
