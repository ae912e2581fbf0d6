"""Where the work on records is done: on threads of this process, or wherever another executor takes it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from dc_compiler import ir
from dc_compiler.pipeline.threads import map_on_threads
from dc_compiler.pipeline.update import Update

O = TypeVar("O")  # noqa: E741  # options
# A pure function of a record, options for this record, and the seed of the run. It changes nothing, and what it gives
# depends on nothing else, so it may be done anywhere, and again. A module-level function: it travels by its name.
Work = Callable[[ir.WeightRecord, O, int], Update]


@dataclass(frozen=True)
class Task(Generic[O]):
    """Work to do on a record. ``options`` is plain data that pickles, such as the pass with the record's overrides."""

    record: ir.WeightRecord
    options: O


class Executor(ABC):
    """Does the work of a pass on its records."""

    @abstractmethod
    def updates(self, work: Work[Any], tasks: Sequence[Task[Any]], seed: int) -> Iterator[tuple[int, Update]]:
        """Do every task once and apply its update to its record.

        Yields:
            The number of a finished task, and its update; in any order.

        Raises:
            What ``work`` raised.
        """


class ThreadExecutor(Executor):
    """Threads of this process."""

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def updates(self, work: Work[Any], tasks: Sequence[Task[Any]], seed: int) -> Iterator[tuple[int, Update]]:
        def run(task: Task[Any]) -> Update:
            update = work(task.record, task.options, seed)
            update.apply(task.record)
            return update

        yield from enumerate(map_on_threads(self._threads, run, tasks))
