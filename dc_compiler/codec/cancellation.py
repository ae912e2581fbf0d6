"""Stops calls of the native library from another thread."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from dc_compiler.codec.library import library

R = TypeVar("R")
_lock = threading.Lock()  # of who is inside whom
_obeyed = threading.local()  # .cancellation: what this thread obeys


class Cancellation:
    """One thread obeys it, another cancels: the native calls of the first, running or to come, raise CancelledError.

    One that is made by a thread which obeys another is cancelled with that one.
    """

    def __init__(self) -> None:
        self._flag = ctypes.c_int32(0)
        self._inner: weakref.WeakSet[Cancellation] = weakref.WeakSet()
        outer: Cancellation | None = getattr(_obeyed, "cancellation", None)
        if outer is not None:
            with _lock:
                outer._inner.add(self)
                self._flag.value = outer._flag.value

    @property
    def is_cancelled(self) -> bool:
        """Whether what obeys is to stop."""
        return bool(self._flag.value)

    def cancel(self) -> None:
        """Stop what obeys; for good."""
        with _lock:
            self._stop()

    def _stop(self) -> None:
        self._flag.value = 1
        for inner in self._inner:
            inner._stop()

    @contextmanager
    def obeyed(self) -> Iterator[None]:
        """The native calls of this thread obey, and those that they start on other threads."""
        set_flag = library().dcc_set_cancel_flag
        outer = getattr(_obeyed, "cancellation", None)
        before = set_flag(ctypes.addressof(self._flag))
        _obeyed.cancellation = self
        try:
            yield
        finally:
            _obeyed.cancellation = outer
            set_flag(before)


def interruptible(call: Callable[[], R]) -> R:
    """Make a native call that may take long so that Ctrl-C ends it: Python runs signal handlers in the main thread, and
    only between its own steps. There the call is made on another thread; the main thread waits, which a handler's
    exception can end."""
    if threading.current_thread() is not threading.main_thread():
        return call()
    cancellation = getattr(_obeyed, "cancellation", None) or Cancellation()

    def obeying() -> R:
        with cancellation.obeyed():
            return call()

    with ThreadPoolExecutor(1) as pool:
        try:
            return pool.submit(obeying).result()
        except BaseException:
            cancellation.cancel()
            raise
