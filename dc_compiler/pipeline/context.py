"""What a run of a pipeline gives to every pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dc_compiler.pipeline.executor import Executor, Task, ThreadExecutor, Work
from dc_compiler.pipeline.threads import map_on_threads
from dc_compiler.pipeline.update import Update

if TYPE_CHECKING:
    from dc_compiler.calibration.calibration import Calibration
    from dc_compiler.ort.samples import Samples
    from dc_compiler.training.checkpoint import Checkpoint

T = TypeVar("T")
R = TypeVar("R")
# (pass name, done, total, mean loss of recent steps where it trains)
Progress = Callable[[str, int, int, float | None], None]


@dataclass(frozen=True)
class Override:
    """Option values for the weights whose name matches a glob (``--set 'GLOB:key=value,...'``)."""

    pattern: str
    options: Mapping[str, str]


@dataclass
class Context:
    """What a run gives to every pass. ``progress`` is called after each weight or step of training. ``samples`` are
    those of ``--data``, or None; ``calibration`` is what they say about weights. ``checkpoint`` keeps the state of
    training, or None. ``executor`` does the work on records; None stands for ``threads`` threads of this process.
    """

    seed: int = 0
    jobs: int = 0
    overrides: Sequence[Override] = ()
    progress: Progress | None = None
    samples: Samples | None = None
    calibration: Calibration | None = None
    checkpoint: Checkpoint | None = None
    executor: Executor | None = None

    @property
    def threads(self) -> int:
        """Worker threads: ``jobs``, or one per processor this process may use."""
        available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return self.jobs or len(available)

    def calibrated(self) -> Calibration:
        """What the samples say, for a pass that calibrates: whoever runs one gives it that."""
        assert self.calibration is not None
        return self.calibration

    def apply(self, name: str, work: Work[Any], tasks: Sequence[Task[Any]]) -> list[Update]:
        """Have the executor do every task's work and update its record; the updates, in the order of the tasks."""
        executor = self.executor or ThreadExecutor(self.threads)
        updates: dict[int, Update] = {}
        for number, update in executor.updates(work, tasks, self.seed):
            updates[number] = update
            if self.progress is not None:
                self.progress(name, len(updates), len(tasks), None)
        return [updates[number] for number in range(len(tasks))]

    def each(self, name: str, records: Sequence[T], work: Callable[[T], R]) -> list[R]:
        """Apply ``work`` to every record on ``threads`` threads; results keep the order of the records."""
        results: list[R] = []
        for done, result in enumerate(map_on_threads(self.threads, work, records), 1):
            results.append(result)
            if self.progress is not None:
                self.progress(name, done, len(records), None)
        return results
