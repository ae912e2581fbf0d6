"""Work on records done by the workers of a dask.distributed cluster."""

from __future__ import annotations

import dataclasses
import functools
import glob
import hashlib
import logging
import queue
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import dc_compiler
from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import ClusterError
from dc_compiler.pipeline.executor import Executor, Task, Work
from dc_compiler.pipeline.update import Update

try:
    import distributed
except ImportError:  # the optional extra [cluster]
    distributed = None

CONNECTING = 10.0  # seconds that a scheduler may take to answer
WITHOUT_WORKERS = 30.0  # seconds without a single worker: starting some takes a while
LOSSES = 3  # how often a record may be lost with its worker before it is to blame
# How it sounds when work travels to where its module is not
MISSING = ("No module named", "Can't get attribute", "Error during deserialization")


@dataclass
class _Remote:
    """A record on the cluster.

    Attributes:
        record: the record here, which is the one that counts.
        sent: the record as it was sent.
        since: updates that workers made of it, oldest first, and that stay with them.
        parts: what the record here is made of after those updates; other parts tell that it changed here.
    """

    record: ir.WeightRecord
    sent: Any
    since: list[Any] = field(default_factory=list)
    parts: tuple[Any, ...] = ()

    def is_current(self) -> bool:
        return all(a is b for a, b in zip(self.parts, _parts(self.record), strict=True))


def _parts(record: ir.WeightRecord) -> tuple[Any, ...]:
    """Everything that an update or a pass may replace (never changed in place)."""
    return record.values, record.mask, record.clustered, record.frame, record.reason, record.original


class ClusterExecutor(Executor):
    """The workers of the dask scheduler at ``address``, such as ``tcp://host:8786``.

    A record is sent once; what a worker finds out comes back, and stays there too for the passes that follow. The
    records here are the ones that count: what is lost with a worker is sent again. Dask runs what it is sent: use it in
    a network where everyone is trusted, or with its TLS settings.

    Raises:
        ClusterError: dask is not installed, no scheduler answers, no worker is left, one has other code than this
            process, or a weight takes every worker down.
    """

    def __init__(self, address: str) -> None:
        if distributed is None:
            raise ClusterError("--cluster needs dask; run: pip install 'dc-compiler[cluster]'")
        self._address = address
        self._remotes: dict[int, _Remote] = {}
        self._alive = time.monotonic()
        # A lost worker is no news to whoever waits for the result: these two have the handlers of dask's whole log
        self._silenced = [h for name in ("", ".client") for h in logging.getLogger(f"distributed{name}").handlers]
        for handler in self._silenced:
            handler.addFilter(_nothing)
        try:
            host, port = distributed.comm.parse_host_port(distributed.comm.parse_address(address)[1])
            socket.create_connection((host, port), CONNECTING).close()  # says quickly and clearly what is wrong
            self._client = distributed.Client(address, timeout=CONNECTING, set_as_default=False)
        except (OSError, ValueError, TypeError, OverflowError) as e:
            self._let_log()
            raise ClusterError(f"--cluster {address}: no dask scheduler answers there ({_first_line(e)})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the cluster forget the records and leave it."""
        self._remotes.clear()
        self._client.close()
        self._let_log()

    def _let_log(self) -> None:
        for handler in self._silenced:
            handler.removeFilter(_nothing)

    def updates(self, work: Work[Any], tasks: Sequence[Task[Any]], seed: int) -> Iterator[tuple[int, Update]]:
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        waiting = list(reversed(range(len(tasks))))
        running: dict[Any, int] = {}
        losses: Counter[int] = Counter()
        try:
            while waiting or running:
                if waiting:
                    number = waiting.pop()
                    future = self._submit(work, tasks[number], seed)
                    running[future] = number
                    future.add_done_callback(finished.put)
                future = self._next(finished, block=not waiting)
                if future is None:
                    continue
                number = running.pop(future)
                record = tasks[number].record
                update = self._result(future)
                if update is None:
                    losses[number] += 1
                    if losses[number] > LOSSES:
                        self._lost(record)
                    del self._remotes[id(record)]
                    waiting.append(number)
                    continue
                update.apply(record)
                remote = self._remotes[id(record)]
                remote.since.append(future)
                remote.parts = _parts(record)
                yield number, update
        finally:
            self._client.cancel(list(running))

    def _submit(self, work: Work[Any], task: Task[Any], seed: int) -> Any:
        remote = self._remotes.get(id(task.record))
        if remote is None or not remote.is_current():
            remote = _Remote(task.record, self._send(task.record), parts=_parts(task.record))
            self._remotes[id(task.record)] = remote
        return self._client.submit(_work, work, remote.sent, remote.since, task.options, seed, _code(), pure=False)

    def _send(self, record: ir.WeightRecord) -> Any:
        start = time.monotonic()
        while True:
            try:
                with self._explained():
                    return self._client.scatter(record, hash=False)
            except OSError:  # the worker that was to take it has just gone, or there is none; TimeoutError is one, too
                self._check_workers()
                if time.monotonic() - start > 2 * WITHOUT_WORKERS:
                    raise ClusterError(f"--cluster {self._address}: no worker takes '{record.name}'") from None

    def _next(self, finished: queue.SimpleQueue[Any], *, block: bool) -> Any:
        """A future that is done; None when there is none yet."""
        try:
            return finished.get(block, timeout=1.0)
        except queue.Empty:
            if block:
                self._check_workers()
            return None

    def _check_workers(self) -> None:
        try:
            workers = self._client.nthreads() if self._client.status == "running" else None
        except OSError:
            workers = None
        if workers is None:
            raise ClusterError(f"--cluster {self._address}: the connection to the scheduler is lost")
        if workers:
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > WITHOUT_WORKERS:
            raise ClusterError(
                f"--cluster {self._address}: the scheduler has had no worker for {WITHOUT_WORKERS:.0f} seconds; "
                "start one with 'dask worker'"
            )

    def _result(self, future: Any) -> Update | None:
        """What the worker found out; None when that, or the record itself, is lost with a worker."""
        with self._explained():
            try:
                update = future.result()
            except distributed.client.FutureCancelledError:
                return None
        assert isinstance(update, Update)
        return update

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what the cluster lacks into a sentence; what the work raised stays as it is."""
        try:
            yield
        except distributed.KilledWorker as e:
            raise ClusterError(f"--cluster {self._address}: {_first_line(e)}") from None
        except Exception as e:  # dask wraps errors in many ways
            if not any(text in str(e) for text in MISSING):
                raise
            raise ClusterError(
                f"--cluster {self._address}: its scheduler or a worker lacks a package that this process has "
                f"({_first_line(e)}); install the same on all"
            ) from None

    def _lost(self, record: ir.WeightRecord) -> NoReturn:
        raise ClusterError(
            f"--cluster {self._address}: weight '{record.name}' was lost with its worker {LOSSES + 1} times; "
            "look for the cause in the log of 'dask worker' (too little memory?)"
        )


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _work(
    work: Work[Any], record: ir.WeightRecord, since: Sequence[Update], options: Any, seed: int, code: str
) -> Update:
    """Runs on a worker: bring a copy of the record up to date, then work on it."""
    if code != _code():
        raise ClusterError(f"a worker of the cluster has {_code()}, this process has {code}; install the same on all")
    copy = dataclasses.replace(record)
    for update in since:
        update.apply(copy)
    return work(copy, options, seed)


@functools.cache
def _code() -> str:
    """Version and digest of what decides the bytes of a result."""
    digest = hashlib.sha256()
    folder = Path(dc_compiler.__file__).parent
    for name in sorted(glob.iglob("**/*.py", root_dir=folder, recursive=True)):
        digest.update((folder / name).read_bytes())
    return f"dcc {binding.library_version()} ({digest.hexdigest()[:12]})"
