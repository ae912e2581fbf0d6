"""Runs a pipeline: the order of passes is checked before anything runs, invariants after each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import numpy as np

from dc_compiler import ir
from dc_compiler.codec import binding
from dc_compiler.errors import CorruptFrameError, DccError, InvalidArgumentError, PassError
from dc_compiler.model import importer
from dc_compiler.nearest import nearest
from dc_compiler.pipeline.context import Context, Override
from dc_compiler.pipeline.step import Pass, PassReport


class PassManager:
    """Runs a pipeline over a Program."""

    def __init__(self, passes: Sequence[Pass]) -> None:
        self.passes = list(passes)
        self._check_order()

    def text(self) -> str:
        """The pipeline in text form."""
        return ",".join(p.text() for p in self.passes)

    def check_overrides(self, program: ir.Program, overrides: Iterable[Override]) -> None:
        """Refuse overrides that match no weight, name unknown options or such as are the same for all weights, or give
        bad values.

        Raises:
            InvalidArgumentError
        """
        for override in overrides:
            found = importer.matching(program.records, override.pattern)
            if not found:
                like = nearest(override.pattern, importer.names_of(program.records))
                raise InvalidArgumentError(
                    f"--set '{override.pattern}' matches no weight; 'dcc inspect' lists their names{like}"
                )
            takes_integers = any(p.changes_integers for p in self.passes)
            if all(r.exact is not None and not (takes_integers and r.quantized is not None) for r in found):
                raise InvalidArgumentError(
                    f"--set '{override.pattern}' matches only what stays exact, such as '{found[0].name}' "
                    f"({found[0].exact}); give the whole name of what is a weight nevertheless"
                )
            for key, value in override.options.items():
                self._check_option(key, value)
            for step in self.passes:
                step.overridden(override.options)

    def _check_option(self, key: str, value: str) -> None:
        if any(key in p.per_weight for p in self.passes):
            return
        known = ", ".join(sorted({k for p in self.passes for k in p.per_weight})) or "none"
        owner = next((p for p in self.passes if key in p.option_types()), None)
        if owner is None:
            raise InvalidArgumentError(
                f"no pass of the pipeline has an option '{key}'; options for some weights: {known}"
            )
        raise InvalidArgumentError(
            f"--set cannot give some weights their own '{key}', which holds for all of them; give it to the pass, as "
            f"in --pipeline '{owner.name}({key}={value})'; options for some weights: {known}"
        )

    def run(self, program: ir.Program, context: Context) -> list[PassReport]:
        """Run every pass, checking the program's invariants after each.

        Raises:
            InvalidArgumentError: a pass needs samples and there are none.
            DccError: what a pass raised; PassError when a pass crashed or an invariant is broken.
        """
        hungry = next((p for p in self.passes if p.needs_samples or p.calibrates), None)
        if hungry is not None and context.samples is None:
            what = "trains" if hungry.needs_samples else "calibrates"
            raise InvalidArgumentError(f"pass '{hungry.text()}' {what}, so it needs samples; give --data FILE")
        return run_passes(self.passes, program, context)

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


def _is_same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays have the same bits."""
    return one is other or (one.shape == other.shape and one.tobytes() == other.tobytes())


def run_passes(passes: Iterable[Pass], program: ir.Program, context: Context) -> list[PassReport]:
    """Run passes one after the other, checking the program's invariants after each.

    Raises:
        DccError: what a pass raised; PassError when a pass crashed or an invariant is broken.
    """
    reports = []
    ran: list[str] = []
    for step in passes:
        start = time.perf_counter()
        strict = {"shapes": not step.reshapes, "weights": not step.rewrites}
        signature = program.signature(**strict)
        left_alone = [(r, r.values) for r in program.records if not _may_change(step, r)]
        if "clustered" in step.establishes:
            program.pruned = ir.excerpts(r for r in program.weights() if r.mask is not None)
        try:
            report = step.run(program, context)
            report.seconds = time.perf_counter() - start
            if program.signature(**strict) != signature:
                raise PassError("it changed the model's inputs or outputs, or the shape or type of a weight")
            check_invariants(program, context)
            changed = [r.name for r, values in left_alone if not _is_same(r.values, values)]
            if changed:
                raise PassError(f"weight '{changed[0]}': it changed although it is left alone")
        except PassError as e:
            raise PassError(f"pass '{step.text()}': {e}") from None
        except DccError:
            raise
        except Exception as e:
            before = f" after {', '.join(ran)}" if ran else ""
            raise PassError(f"pass '{step.text()}' failed{before}: {type(e).__name__}: {e}") from e
        if step.rewrites and report.changed:  # constants may have become weights
            ir.mark_exact(program)
        ran.append(step.text())
        reports.append(report)
    return reports


def _may_change(step: Pass, record: ir.WeightRecord) -> bool:
    if record.reason is None and (record.exact is None or record.coder is not None or step.reshapes or step.rewrites):
        return True
    if record.quantized is not None and record.reason is None and step.changes_integers:
        return True
    return (step.trains or step.reshapes or step.rewrites) and record.trainable


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
    if record.mask is None and record.clustered is None and record.frame is None:
        return None
    bits = ir.element_type(record.elem_type).bit_pattern
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
