"""Passes and their manager: discovery, options, order checks before anything runs, invariants after each pass."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

import numpy as np

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError, DccError, InvalidArgumentError, PassError
from dc_compiler.model import importer

if TYPE_CHECKING:
    from dc_compiler.ort.samples import TrainingData
    from dc_compiler.training.checkpoint import Checkpoint

ENTRY_POINT_GROUP = "dc_compiler.passes"
ELEMENT_BITS = {"float32": np.uint32, "float64": np.uint64, "float16": np.uint16, "bfloat16": np.uint16}
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
    those of ``--data``, or None. ``checkpoint`` keeps the state of training, or None.
    """

    seed: int = 0
    jobs: int = 0
    overrides: Sequence[Override] = ()
    progress: Progress | None = None
    samples: TrainingData | None = None
    checkpoint: Checkpoint | None = None

    @property
    def threads(self) -> int:
        """Worker threads: ``jobs``, or one per processor this process may use."""
        available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        return self.jobs or len(available)

    def each(self, name: str, records: Sequence[T], work: Callable[[T], R]) -> list[R]:
        """Apply ``work`` to every record on ``threads`` threads; results keep the order of the records."""
        results: list[R] = []
        with ThreadPoolExecutor(self.threads) as pool:
            for done, result in enumerate(pool.map(work, records), 1):
                results.append(result)
                if self.progress is not None:
                    self.progress(name, done, len(records), None)
        return results


@dataclass
class PassReport:
    """What a pass did: weights changed, wall seconds, and facts as plain data."""

    name: str
    changed: int
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass(ABC):
    """A step of the pipeline. Options are dataclass fields, checked in ``__post_init__`` with :meth:`check`.

    Class facts: ``requires`` must have been established by earlier passes, ``forbids`` must not; ``positional``
    names the option that a bare word in the pipeline text sets (``encode(huffman)``); ``trains`` allows it to change
    small tensors that are otherwise left alone, ``reshapes`` their and the weights' shapes. Passes hold no state.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    establishes: ClassVar[frozenset[str]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    positional: ClassVar[str | None] = None
    trains: ClassVar[bool] = False
    reshapes: ClassVar[bool] = False

    @abstractmethod
    def run(self, program: ir.Program, context: Context) -> PassReport:
        """Change the program's eligible records; raise DccError for what the user must mend."""

    @property
    def needs(self) -> frozenset[str]:
        """``requires`` with what these very options add."""
        return self.requires

    @property
    def needs_samples(self) -> bool:
        """Whether it cannot run without ``Context.samples``."""
        return False

    def check(self, good: bool, option: str, remedy: str) -> None:
        """Raise InvalidArgumentError unless ``good``."""
        if not good:
            raise InvalidArgumentError(f"{self.name}: {option}={getattr(self, option)} is not valid; {remedy}")

    def for_record(self, record: ir.WeightRecord, context: Context) -> Self:
        """These options with the overrides that match the record's name; later overrides win."""
        result = self
        for override in context.overrides:
            if importer.matching([record], override.pattern):
                own = {k: v for k, v in override.options.items() if k in result.option_types()}
                result = result.with_options(own)
        return result

    @classmethod
    @functools.cache
    def option_types(cls) -> dict[str, Any]:
        """Option name -> type."""
        hints = typing.get_type_hints(cls)
        return {f.name: hints[f.name] for f in dataclasses.fields(cls)}

    @classmethod
    def parse_option(cls, key: str, text: str) -> Any:
        """Convert the text of one option to its type."""
        kinds = cls.option_types()
        if key not in kinds:
            raise InvalidArgumentError(f"{cls.name} has no option '{key}'; it has: {', '.join(kinds) or 'none'}")
        return _convert(f"{cls.name}: {key}", kinds[key], text)

    @classmethod
    def from_text(cls, options: Mapping[str, str]) -> Self:
        """Build the pass from option texts."""
        return cls(**{k: cls.parse_option(k, v) for k, v in options.items()})

    def with_options(self, options: Mapping[str, str]) -> Self:
        """A copy with some options replaced, checked again."""
        return (
            dataclasses.replace(self, **{k: self.parse_option(k, v) for k, v in options.items()}) if options else self
        )

    def text(self) -> str:
        """The pass in pipeline text, options that differ from their defaults only."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        shown = [f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in values.items()]
        return f"{self.name}({','.join(shown)})" if shown else self.name


def _convert(label: str, kind: Any, text: str) -> Any:
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    for k in kinds:
        try:
            if k is bool and text in ("true", "false"):
                return text == "true"
            if k in (int, float):
                return k(text)
            if k is str:
                return text
            if typing.get_origin(k) is typing.Literal and text in typing.get_args(k):
                return text
        except ValueError:
            continue
    literals = [str(v) for k in kinds if typing.get_origin(k) is typing.Literal for v in typing.get_args(k)]
    wanted = (
        f"one of {', '.join(literals)}" if literals else " or ".join(k.__name__ for k in kinds if k is not type(None))
    )
    raise InvalidArgumentError(f"{label}={text} is not valid; give {wanted}")


@functools.cache
def available_passes() -> dict[str, type[Pass]]:
    """Passes by name, found through the entry points of installed distributions."""
    found: dict[str, type[Pass]] = {}
    for point in sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda p: p.name):
        found[point.name] = point.load()
    return found


class PassManager:
    """Runs a pipeline over a Program."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = list(passes)
        self._check_order()

    def text(self) -> str:
        """The pipeline in text form."""
        return ",".join(p.text() for p in self.passes)

    def check_overrides(self, program: ir.Program, overrides: Iterable[Override]) -> None:
        """Refuse overrides that match no weight, name unknown options, or give them bad values.

        Raises:
            InvalidArgumentError
        """
        for override in overrides:
            if not importer.matching(program.records, override.pattern):
                raise InvalidArgumentError(
                    f"--set '{override.pattern}' matches no weight; 'dcc inspect' lists their names"
                )
            for key, value in override.options.items():
                owners = [p for p in self.passes if key in p.option_types()]
                if not owners:
                    known = sorted({k for p in self.passes for k in p.option_types()})
                    raise InvalidArgumentError(
                        f"no pass of the pipeline has an option '{key}'; known: {', '.join(known)}"
                    )
                for owner in owners:
                    owner.with_options({key: value})

    def run(self, program: ir.Program, context: Context) -> list[PassReport]:
        """Run every pass, checking the program's invariants after each.

        Raises:
            InvalidArgumentError: a pass needs samples and there are none.
            DccError: what a pass raised; PassError when a pass crashed or an invariant is broken.
        """
        hungry = next((p for p in self.passes if p.needs_samples), None)
        if hungry is not None and context.samples is None:
            raise InvalidArgumentError(f"pass '{hungry.text()}' trains, so it needs samples; give --data FILE")
        reports = []
        ran: list[str] = []
        for step in self.passes:
            start = time.perf_counter()
            signature = program.signature(shapes=not step.reshapes)
            left_alone = [(r, r.values) for r in program.records if not self._may_change(step, r)]
            try:
                report = step.run(program, context)
                report.seconds = time.perf_counter() - start
                if program.signature(shapes=not step.reshapes) != signature:
                    raise PassError("it changed the model's inputs or outputs, or the shape or type of a weight")
                check_invariants(program, context)
                changed = [r.name for r, values in left_alone if r.values is not values]
                if changed:
                    raise PassError(f"weight '{changed[0]}': it changed although it is left alone")
            except PassError as e:
                raise PassError(f"pass '{step.text()}': {e}") from None
            except DccError:
                raise
            except Exception as e:
                before = f" after {', '.join(ran)}" if ran else ""
                raise PassError(f"pass '{step.text()}' failed{before}: {type(e).__name__}: {e}") from e
            ran.append(step.text())
            reports.append(report)
        return reports

    @staticmethod
    def _may_change(step: Pass, record: ir.WeightRecord) -> bool:
        return record.reason is None or ((step.trains or step.reshapes) and record.trainable)

    def _check_order(self) -> None:
        established: set[str] = set()
        for step in self.passes:
            missing = step.needs - established
            if missing:
                raise InvalidArgumentError(
                    f"pass '{step.text()}' needs weights that are already {', '.join(sorted(missing))}; "
                    "put the pass that does this before it"
                )
            present = step.forbids & established
            if present:
                made = ", ".join(sorted(present))
                raise InvalidArgumentError(f"pass '{step.text()}' must come before the pass that makes weights {made}")
            established |= step.establishes
        if "encoded" not in established:
            raise InvalidArgumentError("the pipeline does not encode anything; end it with 'encode'")


def check_invariants(program: ir.Program, context: Context) -> None:
    """Verify what must hold after every pass.

    Raises:
        PassError: a masked element is not +0.0, ``values`` differ from the codebook's, or a frame does not decode to
            ``values``.
    """
    broken = [r for r in context.each("check", program.records, _broken) if r]
    if broken:
        raise PassError(broken[0])


def _broken(record: ir.WeightRecord) -> str | None:
    bits = ELEMENT_BITS.get(record.dtype_name)
    if bits is None or (record.mask is None and record.clustered is None and record.frame is None):
        return None
    flat = record.values.reshape(-1).view(bits)
    if record.mask is not None:
        mask = record.mask.reshape(-1)
        if any((flat[s] * ~mask[s]).any() for s in ir.blocks(record.size)):
            return f"weight '{record.name}': a pruned element is not +0.0"
    if record.frame is not None:
        try:
            decoded = binding.decode(record.frame, threads=1)
        except CorruptFrameError as e:
            return f"weight '{record.name}': {e}"
        if decoded.shape != record.shape or not np.array_equal(decoded.reshape(-1).view(bits), flat):
            return f"weight '{record.name}': its frame does not decode to its values"
    elif record.clustered is not None:
        dtype = record.values.dtype
        for s in ir.blocks(record.size):
            if not np.array_equal(record.clustered.values(dtype, s.start, s.stop).view(bits), flat[s]):
                return f"weight '{record.name}': its values are not those of its codebook"
    return None
