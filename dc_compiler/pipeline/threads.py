"""Threads that do work while the main thread waits and hears Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from dc_compiler.codec.cancellation import Cancellation

T = TypeVar("T")
R = TypeVar("R")


def map_on_threads(threads: int, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results of ``work`` in the order of the items.

    When one fails, when the caller is interrupted, or when it takes no more results, nothing new is started, and the
    native library's running calls stop soon.
    """
    cancellation = Cancellation()

    def stoppable(item: T) -> R:
        with cancellation.obeyed():
            return work(item)

    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(stoppable, items)
        except BaseException:
            cancellation.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
