"""canonicalize: brings a graph into the form that the other passes and onnxruntime see through best."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import onnx
import onnx_graphsurgeon as gs

from dc_compiler import ir
from dc_compiler.ort.sessions import Sessions
from dc_compiler.pass_manager import Context, Pass, PassReport
from dc_compiler.passes.canonicalize.batchnorm import fold_batch_normalization
from dc_compiler.passes.canonicalize.constants import fold_constant
from dc_compiler.passes.canonicalize.surgery import DOMAINS, Surgery, drop_declarations
from dc_compiler.passes.canonicalize.survey import has_work
from dc_compiler.passes.trees.exact import simplify

SHOWN = 3  # names in a note


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Make the graph plainer without changing what it computes, but for rounding, and never the file larger.

    Identity goes; nodes that only compute constants are replaced by their value where that takes fewer bytes, so that
    a weight behind a Transpose or a Reshape is one that its layer takes directly; batch normalization goes into the
    layer before it; branches of tree ensembles that decide nothing, whatever the input, go; nodes and stored tensors
    that no output needs go. Weights keep their names. The model's inputs and outputs, metadata, functions, bodies of
    If, Loop and Scan, and what is skipped stay as they are. What else could have been done, and why not, is among the
    report's notes.
    """

    name: ClassVar[str] = "canonicalize"
    forbids: ClassVar[frozenset[str]] = frozenset({"pruned", "clustered", "encoded"})
    rewrites: ClassVar[bool] = True

    def run(self, program: ir.Program, context: Context) -> PassReport:
        before = len(program.proto.graph.node)
        removed = simplify(program)
        if not has_work(program.proto.graph):
            drop_declarations(program.proto.graph)
            return self._report(program, before, 0, 0, 0, removed)
        try:
            surgery = Surgery(program)
        except Exception as e:  # whatever onnx-graphsurgeon makes of a graph that is not for it
            program.notes.append(f"canonicalize: the graph stays as it is, onnx-graphsurgeon does not take it: {e}")
            return PassReport(self.name, removed)
        stays: dict[str, list[str]] = defaultdict(list)
        folded = normalized = 0
        for node in surgery.nodes("Identity"):
            _note(stays, node, _remove_identity(surgery, node))
        sessions = Sessions()
        own = {alias for r in program.records for alias in r.aliases}  # what is transposed from an equal tensor
        for node in surgery.nodes():
            reason = fold_constant(surgery, node, sessions)
            _note(stays, node, None if node.op == "Transpose" and node.name in own else reason)
            folded += not node.outputs
        ranks = _ranks(program) if any(True for _ in surgery.nodes("BatchNormalization")) else {}
        for node in surgery.nodes("BatchNormalization"):
            name = node.inputs[0].name
            _note(stays, node, fold_batch_normalization(surgery, node, ranks.get(name)))
            normalized += node.op != "BatchNormalization"
        dead = surgery.finish()
        if normalized:
            program.rounding.append(
                f"canonicalize: {normalized} batch normalizations are part of the layers before them"
            )
        for reason, names in stays.items():
            shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
            program.notes.append(f"canonicalize: {shown}: {reason}")
        return self._report(program, before, folded, normalized, dead, removed)

    def _report(
        self, program: ir.Program, before: int, folded: int, normalized: int, dead: int, removed: int
    ) -> PassReport:
        nodes = len(program.proto.graph.node)
        facts = {
            "constants folded": folded,
            "batch normalizations folded": normalized,
            "dead nodes": dead,
            "nodes": nodes,
            "tree nodes removed": removed,
        }
        return PassReport(
            self.name, max(before - nodes, normalized, removed), facts=facts
        )  # a folded one may stay as an Add


def _note(stays: dict[str, list[str]], node: gs.Node, reason: str | None) -> None:
    if reason is not None:
        stays[reason].append(node.name or node.outputs[0].name)


def _remove_identity(surgery: Surgery, node: gs.Node) -> str | None:
    """Let everything take the Identity's input; where its output is one of the model's, the input takes that name.

    Returns:
        Why it stays, or None.
    """
    if node.domain not in DOMAINS or len(node.inputs) != 1:
        return None
    x, y = node.inputs[0], node.outputs[0]
    if y.name not in surgery.fixed:
        if x.name in surgery.hidden:
            return "a body has another value of the same name"
        surgery.bypass(node, x)
        return None
    is_output = y.name in surgery.outputs and y.name not in surgery.hidden
    if not is_output or x.name in surgery.fixed or len(x.inputs) != 1 or x.inputs[0].op == "Constant":
        return "its input and its output are both known elsewhere"
    producer = x.inputs[0]
    surgery.detach(node)
    place = next(i for i, o in enumerate(producer.outputs) if o is x)
    surgery.move_consumers(x, y)
    producer.outputs[place] = y
    return None


def _ranks(program: ir.Program) -> dict[str, int]:
    """Number of axes of values of the main graph, where inference finds it."""
    graph = onnx.shape_inference.infer_shapes(program.proto).graph
    types = {v.name: v.type.tensor_type for v in (*graph.value_info, *graph.output)}
    return {name: len(t.shape.dim) for name, t in types.items() if t.HasField("shape")}
