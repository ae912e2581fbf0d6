"""A Program as a plain model with the values it has now; some of its weights become inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import onnx
from onnx import helper

from dc_compiler import ir


def open_weights(program: ir.Program, names: Collection[str]) -> onnx.ModelProto:
    """The program's model with the tensors called ``names`` as inputs, and all others with their current values.

    An input has the record's name and is float32, or float64 for a float64 tensor.
    """
    model = onnx.ModelProto()
    model.CopyFrom(program.proto)
    pending = deque(zip(program.records, program.sites, strict=True))
    opened: list[tuple[ir.WeightRecord, ir.Site]] = []
    for before, after in zip(ir.weight_sites(program.proto.graph), ir.weight_sites(model.graph), strict=True):
        if not pending or pending[0][1].value_name != before.value_name:
            continue
        if pending[0][0].elem_type != before.elem_type:
            continue
        record, _ = pending.popleft()
        if record.name in names:
            opened.append((record, after))
        elif ir.element_type(record.elem_type).is_packable:
            after.write(record.values)
    _replace_by_inputs(model.graph, opened)
    return model


def _replace_by_inputs(graph: onnx.GraphProto, opened: Sequence[tuple[ir.WeightRecord, ir.Site]]) -> None:
    gone = {site.value_name for _, site in opened}
    stored = [t for t in graph.initializer if t.name not in gone]
    nodes = [n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in gone)]
    inputs = [i for i in graph.input if i.name not in gone]
    casts = []
    for record, site in opened:
        value = site.value_name
        master = input_name(record, value)
        trains = ir.element_type(record.elem_type).trains
        assert trains is not None
        inputs.append(helper.make_tensor_value_info(master, ir.element_type_of(trains).number, record.shape))
        if master != value:
            casts.append(helper.make_node("Cast", [master], [value], to=record.elem_type))
    for field, items in ((graph.initializer, stored), (graph.node, [*casts, *nodes]), (graph.input, inputs)):
        del field[:]
        field.extend(items)


def input_name(record: ir.WeightRecord, value_name: str) -> str:
    """How :func:`open_weights` calls the input for a record stored as ``value_name``. Where training computes in
    another type than the tensor's, the input has that type and is cast."""
    kind = ir.element_type(record.elem_type)
    return value_name if kind.trains == kind.dtype else f"{value_name}.f32"
