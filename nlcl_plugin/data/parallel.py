"""Work on many image files in threads: OpenCV, zlib and hashing release Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from nlcl_plugin.data.progress import ProgressBar

T = TypeVar("T")
R = TypeVar("R")


def map_in_order(
    function: Callable[[T], R], arguments: Collection[T], *, jobs: int, title: str, progress: bool = True
) -> Iterator[R]:
    """Map in so many threads; results come in the order of the arguments, and only a few wait in memory.

    The first error is raised in its place and ends the rest.
    """
    bar = ProgressBar(total=len(arguments), desc=title, unit="file", shown=progress)
    pool = ThreadPoolExecutor(jobs)
    waiting: deque[Future[R]] = deque()
    try:
        with bar:
            for argument in arguments:
                waiting.append(pool.submit(function, argument))
                if len(waiting) > 4 * jobs:
                    yield waiting.popleft().result()
                    bar.update()
            while waiting:
                yield waiting.popleft().result()
                bar.update()
    finally:
        pool.shutdown(cancel_futures=True)
