"""A Program as a plain model with the values it has now; some of its weights become inputs."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import helper

from dc_compiler import ir

LEAST_APART = 1 << 16  # bytes of a tensor for which a place beside the message is worth the trouble
APART = "apart"  # the file that such tensors seem to be in


def open_weights(program: ir.Program, names: Collection[str]) -> onnx.ModelProto:
    """The program's model with the tensors called ``names`` as inputs, and all others with their current values.

    An input has the record's name and is float32, or float64 for a float64 tensor.
    """
    model, places = _copied(program)
    opened = [(record, site) for record, site in places if record.name in names]
    for record, site in places:
        if record.name not in names:
            site.write(record.values)
    if opened:
        _replace_by_inputs(model.graph, opened)
    return model


def weights_apart(program: ir.Program) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The program's model with its current values, of which large ones stand beside it, by their names.

    The model says that these are in a file which does not exist; a session takes them as they are (see
    :meth:`~dc_compiler.ort.sessions.Sessions.open`), where those in a message are copied several times.
    """
    model, places = _copied(program)
    inputs = {i.name for i in model.graph.input}
    apart: dict[str, np.ndarray] = {}
    for record, site in places:
        stays = site.graph is not model.graph or site.value_name in inputs or not isinstance(site, ir.InitializerSite)
        if stays or record.nbytes < LEAST_APART or record.values.dtype.kind != "f":
            site.write(record.values)
            continue
        assert site.tensor is not None
        site.clear()
        site.tensor.data_location = onnx.TensorProto.EXTERNAL
        site.tensor.external_data.add(key="location", value=APART)
        apart[site.value_name] = record.values
    return model, apart


def _copied(program: ir.Program) -> tuple[onnx.ModelProto, list[tuple[ir.WeightRecord, ir.Site]]]:
    """A copy of the model, and where in it the records are whose values may have changed."""
    model = onnx.ModelProto()
    model.CopyFrom(program.proto)
    pending = deque(zip(program.records, program.sites, strict=True))
    places: list[tuple[ir.WeightRecord, ir.Site]] = []
    for before, after in zip(ir.weight_sites(program.proto.graph), ir.weight_sites(model.graph), strict=True):
        if not pending or pending[0][1].value_name != before.value_name:
            continue
        if pending[0][0].elem_type != before.elem_type:
            continue
        record, _ = pending.popleft()
        if record.is_packable:
            places.append((record, after))
    return model, places


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
