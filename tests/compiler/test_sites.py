"""Places where tensors are stored: all of them are read and written alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models.graphs import GRAPHS, body, info, node, tensor, weight
from onnx import TensorProto, helper, numpy_helper

from dc_compiler import InferenceSession, compile_model, inspect_model, ir
from dc_compiler.ir import site as ir_site
from dc_compiler.model import files, importer

VALUES = weight(6, 8)


def graph(*nodes: onnx.NodeProto, initializers: Any = ()) -> onnx.GraphProto:
    return helper.make_graph(nodes, "g", [], [], initializers)


def initializer() -> onnx.GraphProto:
    return graph(initializers=[helper.make_tensor("w", TensorProto.FLOAT, [6, 8], VALUES.ravel().tolist())])


def constant() -> onnx.GraphProto:
    return graph(node("Constant", [], ["w"], value=numpy_helper.from_array(VALUES, "other name")))


def constant_floats() -> onnx.GraphProto:
    return graph(node("Constant", [], ["w"], value_floats=VALUES.ravel().tolist()))


def attribute() -> onnx.GraphProto:
    return graph(helper.make_node("Trees", ["x"], ["w"], domain="ai.onnx.ml", nodes_values=VALUES.ravel().tolist()))


PLACES = {"initializer": initializer, "constant": constant, "constant_floats": constant_floats, "attribute": attribute}


def the_site(held: onnx.GraphProto) -> ir.Site:
    sites: list[ir.Site] = [*ir.weight_sites(held)]
    sites += ir.attribute_sites(held, 1)
    (site,) = sites
    return site


@pytest.mark.parametrize("name", PLACES)
def test_a_place_is_read_written_and_given_up(name: str) -> None:
    held = PLACES[name]()
    site = the_site(held)
    flat = name in ("constant_floats", "attribute")
    before = VALUES.ravel() if flat else VALUES
    assert site.elem_type == TensorProto.FLOAT
    assert site.shape == before.shape
    assert site.value_name == ("w.nodes_values" if name == "attribute" else "w")
    assert np.array_equal(site.read(numpy_helper.to_array), before)
    site.clear()
    assert site.shape == before.shape
    site.write(before * 2)
    again = the_site(held)
    assert np.array_equal(again.read(numpy_helper.to_array), before * 2)
    assert site.can_hoist == (name != "attribute")
    if site.can_hoist:
        ir.remove_sites([site])
        assert (len(held.node), len(held.initializer)) == (0, 0)


def linear() -> onnx.ModelProto:
    """A model whose weights are a node's attribute."""
    body = helper.make_node(
        "LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", targets=20, coefficients=weight(1280).tolist()
    )
    return helper.make_model(
        helper.make_graph([body], "g", [info("x", 1, "n", 64)], [info("y", 1, "n", 20)]),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)], ir_version=8,
    )  # fmt: skip


@pytest.mark.parametrize("preset", ["default", "lossless", "smallest"])
def test_what_is_in_attributes_is_shown_and_stays(preset: str, tmp_path: Path) -> None:
    net = linear()
    onnx.save(net, tmp_path / "in.onnx")
    result = compile_model(net, tmp_path / "out.onnx", preset=preset)
    rows = {t.name: t for t in result.report.tensors}
    assert rows["y.coefficients"].shape == (1280,)
    assert rows["y.coefficients"].reason == "an attribute, part of the graph"
    assert (rows["y.coefficients"].execution, rows["y.coefficients"].exact) == ("kept", None)
    assert [t.name for t in inspect_model(tmp_path / "in.onnx").tensors] == ["y.coefficients"]
    x = np.random.default_rng(0).standard_normal((5, 64)).astype(np.float32)
    outputs = [InferenceSession(tmp_path / name).run(None, {"x": x})[0] for name in ("in.onnx", "out.onnx")]
    assert np.array_equal(np.asarray(outputs[0]), np.asarray(outputs[1]))


def test_a_list_of_floats_in_a_constant_can_be_trained(tmp_path: Path) -> None:
    """It is kept in the graph, as too small to pack; what training made of it must be kept with it."""
    net, feeds = GRAPHS["constant_floats"]()
    x = np.tile(feeds["x"], (20, 1))
    data = {"x": x, "labels": np.ones((len(x), 48), np.float32)}
    result = compile_model(
        net, tmp_path / "out.onnx", pipeline="finetune(epochs=2,lr=0.05),encode(lossless)", min_size=10_000,
        emit="graph", data=data, labels="labels", force=True,
    )  # fmt: skip
    before, after = (
        [s.read(numpy_helper.to_array) for s in ir.weight_sites(m.graph) if s.elem_type == TensorProto.FLOAT]
        for m in (net, result.model)
    )
    assert before[0].shape == after[0].shape
    assert np.abs(before[0] - after[0]).max() > 1e-3


@pytest.mark.parametrize("form", ["session", "graph"])
def test_a_line_for_each_body_that_lost_its_weights(form: str) -> None:
    """However many they were: the first one's name and how many more."""

    def branch(name: str, *names: str) -> onnx.GraphProto:
        values = ["x", *(f"{n}_out" for n in names)]
        nodes = [node("MatMul", [values[i], n], [values[i + 1]]) for i, n in enumerate(names)]
        stored = [tensor(n, weight(48, 48, seed=i + len(names))) for i, n in enumerate(names)]
        return body(name, nodes, [info(values[-1], TensorProto.FLOAT, "batch", 48)], weights=stored)

    graph = helper.make_graph(
        [node("If", ["flag"], ["y"], then_branch=branch("many", "a", "b", "c"), else_branch=branch("one", "d"))],
        "g",
        [info("flag", TensorProto.BOOL), info("x", TensorProto.FLOAT, "batch", 48)],
        [info("y", TensorProto.FLOAT, "batch", 48)],
    )
    net = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    notes = compile_model(net, pipeline="cluster(bits=4),encode", emit=form).report.notes
    assert [n for n in notes if "moved" in n] == [
        "d: moved out of the body 'one' it was stored in",
        "a and 2 more: moved out of the body 'many' they were stored in",
    ]


def test_a_copy_of_a_program_has_the_same_places() -> None:
    """Lists of floats in attributes are places, too."""
    program = importer.build_program(files.read_model(linear()), min_size=16)
    copy = program.copy()
    assert [(type(s), s.value_name) for s in copy.sites] == [(type(s), s.value_name) for s in program.sites]
    assert any(isinstance(s, ir_site.AttributeSite) for s in copy.sites)
    assert all(a.graph is not b.graph for a, b in zip(copy.sites, program.sites, strict=True))
