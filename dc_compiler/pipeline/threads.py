"""Threads that do work while the main thread waits and hears Ctrl-C."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

from dc_compiler.codec.cancellation import Cancellation
from dc_compiler.errors import CancelledError

T = TypeVar("T")
R = TypeVar("R")


def map_on_threads(threads: int, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Results of ``work`` in the order of the items.

    When one fails, when the caller is interrupted, or when it takes no more results, nothing new is started, and the
    native library's running calls stop soon; so in maps within maps.
    """
    cancellation = Cancellation()

    def stoppable(item: T) -> R:
        if cancellation.is_cancelled:
            raise CancelledError("stopped")
        with cancellation.obeyed():
            return work(item)

    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(stoppable, items)
        except BaseException:
            cancellation.cancel()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


_blas_lock = threading.Lock()
_blas_users: list[Any] = []  # what took the limit, once for each user


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """NumPy's matrix products take one thread each, so that their sums do not depend on the number of processors; for
    the whole process, until the last of those that asked for it is done."""
    with _blas_lock:
        _blas_users.append(_blas_users[0] if _blas_users else threadpool_limits(1, "blas"))
    try:
        yield
    finally:
        with _blas_lock:
            limit = _blas_users.pop()
            if not _blas_users:
                limit.restore_original_limits()
