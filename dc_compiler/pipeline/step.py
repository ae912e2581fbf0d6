"""What a pass is: options as text and as values, and what it does to a program."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, ClassVar, Self

from dc_compiler import ir
from dc_compiler.errors import InvalidArgumentError
from dc_compiler.model import importer
from dc_compiler.nearest import nearest
from dc_compiler.pipeline.context import Context
from dc_compiler.pipeline.executor import Task
from dc_compiler.pipeline.update import Update

ENTRY_POINT_GROUP = "dc_compiler.passes"


@dataclass
class PassReport:
    """What a pass did: weights changed (of one that ``rewrites``: nodes; 0 only if the graph is what it was), wall
    seconds, and facts as plain data."""

    name: str
    changed: int
    seconds: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass(ABC):
    """A step of the pipeline. Options are dataclass fields, checked in ``__post_init__`` with :meth:`check`.

    Class facts: ``requires`` must have been established by earlier passes, ``forbids`` must not; ``positional``
    names the option that a bare word in the pipeline text sets (``encode(huffman)``); ``trains`` allows it to change
    small tensors that are otherwise left alone, ``reshapes`` their and the weights' shapes, ``rewrites`` all of that
    and which weights there are; ``per_weight`` names the options that may differ from weight to weight, which
    :meth:`for_record` gives. Passes hold no state.
    """

    name: ClassVar[str]
    requires: ClassVar[frozenset[str]] = frozenset()
    establishes: ClassVar[frozenset[str]] = frozenset()
    forbids: ClassVar[frozenset[str]] = frozenset()
    positional: ClassVar[str | None] = None
    trains: ClassVar[bool] = False
    reshapes: ClassVar[bool] = False
    rewrites: ClassVar[bool] = False
    per_weight: ClassVar[frozenset[str]] = frozenset()

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

    @property
    def calibrates(self) -> bool:
        """Whether it cannot run without ``Context.calibration``."""
        return False

    @property
    def changes_integers(self) -> bool:
        """Whether it may change weights that are quantized already."""
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
                result = result.overridden(override.options)
        return result

    def overridden(self, options: Mapping[str, str]) -> Self:
        """These options for a weight with ``options`` of its own, of which others may belong to other passes.

        Raises:
            InvalidArgumentError: a value is not valid, or not together with the others.
        """
        return self.with_options({k: v for k, v in options.items() if k in self.per_weight})

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
            raise InvalidArgumentError(
                f"{cls.name} has no option '{key}'; it has: {', '.join(kinds) or 'none'}{nearest(key, kinds)}"
            )
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


@dataclass(frozen=True)
class RecordPass(Pass):
    """A pass that works on every weight alone, so that the work can be done anywhere.

    ``plan`` decides on what and with which options, knowing the whole program; ``work`` (see
    :data:`dc_compiler.pipeline.executor.Work`) does it to one record; its update is applied to the record.
    """

    work: ClassVar[Callable[..., Update]]  # a staticmethod of a module-level function

    def plan(self, program: ir.Program, context: Context) -> Sequence[Task[Any]]:
        """What to do: by default, every weight with these options and its overrides."""
        return [Task(r, self.for_record(r, context)) for r in program.weights()]

    def facts(self, program: ir.Program, updates: Sequence[Update]) -> dict[str, Any]:
        """What to report about it."""
        return {}

    def run(self, program: ir.Program, context: Context) -> PassReport:
        updates = context.apply(self.name, self.work, self.plan(program, context))
        return PassReport(self.name, sum(u.changes for u in updates), facts=self.facts(program, updates))


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
