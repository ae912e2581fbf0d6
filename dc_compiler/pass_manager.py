"""The names that passes shipped by others import; what they stand for is in dc_compiler/pipeline."""

from dc_compiler.pipeline.context import Context, Override, Progress
from dc_compiler.pipeline.executor import Executor, Task, ThreadExecutor, Work
from dc_compiler.pipeline.manager import PassManager, check_invariants
from dc_compiler.pipeline.step import ENTRY_POINT_GROUP, Pass, PassReport, RecordPass, available_passes
from dc_compiler.pipeline.update import Update

__all__ = [
    "ENTRY_POINT_GROUP", "Context", "Executor", "Override", "Pass", "PassManager", "PassReport",
    "Progress", "RecordPass", "Task", "ThreadExecutor", "Update", "Work", "available_passes", "check_invariants",
]  # fmt: skip
