"""``dcc diff`` and diff_models: what changed between two models, weight by weight."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import dc_compiler
from dc_compiler import cli, console, diff

RNG = np.random.default_rng(0)


def net(weights: dict[str, np.ndarray], *, metadata: str = "", activation: str = "Relu") -> onnx.ModelProto:
    """x times every weight, one after the other; an activation at the end."""
    nodes, last = [], "x"
    for i, name in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [last, name], [f"h{i}"]))
        last = f"h{i}"
    nodes.append(helper.make_node(activation, [last], ["y"]))
    width = next(iter(weights.values())).shape[0]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(w, n) for n, w in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata:
        helper.set_model_props(model, {"task": metadata})
    return model


def weights(width: int = 64) -> dict[str, np.ndarray]:
    return {n: RNG.standard_normal((width, width)).astype(np.float32) for n in ("first", "second")}


def test_values_are_measured() -> None:
    before = weights()
    after = {n: w.copy() for n, w in before.items()}
    after["second"][:16] += 0.5
    result = dc_compiler.diff_models(net(before), net(after))
    first, second = result.weights
    assert (first.name, first.change, first.changed_share) == ("first", "same", 0)
    assert (second.name, second.change, second.changed_share) == ("second", "changed", 0.25)
    assert second.max_abs == pytest.approx(0.5, rel=1e-6)
    noise = float(np.sum((after["second"].astype(float) - before["second"]) ** 2))
    assert second.sqnr_db == pytest.approx(10 * np.log10(np.sum(before["second"].astype(float) ** 2) / noise))
    assert not result.facts
    assert not result.same


def test_other_shapes_types_and_names() -> None:
    before = weights()
    after = {"first": before["first"].astype(np.float32)[:, :32], "third": RNG.standard_normal((32, 8)).astype("f4")}
    result = dc_compiler.diff_models(net(before), net(after))
    assert [(w.name, w.change, w.changed_share) for w in result.weights] == [
        ("first", "changed", None), ("second", "removed", None), ("third", "added", None),
    ]  # fmt: skip


def test_what_differs_beside_weights() -> None:
    values = weights()
    one = net(values, metadata="old")
    other = net(values, metadata="new", activation="Tanh")
    other.graph.output[0].name = other.graph.node[-1].output[0] = "z"
    facts = {f.what: (f.before, f.after) for f in dc_compiler.diff_models(one, other).facts}
    assert facts == {
        "output y": ("float [n, ?]", None), "output z": (None, "float [n, ?]"), "metadata task": ("old", "new"),
        "nodes Relu": ("1", None), "nodes Tanh": (None, "1"),
    }  # fmt: skip
    renamed = net(values, metadata="old")
    renamed.graph.node[0].name = "renamed"
    assert [f.what for f in dc_compiler.diff_models(one, renamed).facts] == [
        "names, attributes, order or small constants of the graph"
    ]


@pytest.mark.parametrize("form", ["session", "graph"])
def test_original_and_compiled(form: str, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(net(weights()), path)
    exact, coarse = tmp_path / "exact.onnx", tmp_path / "coarse.onnx"
    dc_compiler.compile_model(path, exact, preset="lossless", emit=form)
    dc_compiler.compile_model(path, coarse, pipeline="cluster(bits=3),encode(fixed)", emit=form)
    for weight in dc_compiler.diff_models(path, exact).weights:
        assert (weight.change, weight.changed_share, weight.max_abs) == ("stored", 0, 0)
        assert weight.before is not None
        assert weight.after is not None
        assert (weight.before.coder, weight.after.coder) == (None, "lossless")
    inspected = {r.name: r for r in dc_compiler.inspect_model(coarse).tensors}
    for weight in dc_compiler.diff_models(exact, coarse).weights:
        assert weight.change == "changed"
        assert weight.after == inspected[weight.name]
        assert weight.after.codebook == 8
        assert weight.changed_share == 1
        assert weight.sqnr_db is not None
        assert 5 < weight.sqnr_db < 25
    assert dc_compiler.diff_models(coarse, coarse).same


def test_weights_in_int8_are_compared_as_floats(tmp_path: Path) -> None:
    path, dense, int8 = tmp_path / "net.onnx", tmp_path / "dense.onnx", tmp_path / "int8.onnx"
    onnx.save(net(weights(256)), path)
    pipeline = "cluster(grid,step=0.1,points=255),encode(rans)"
    dc_compiler.compile_model(path, dense, pipeline=pipeline, execution="dense")
    dc_compiler.compile_model(path, int8, pipeline=pipeline, execution="int8")
    result = dc_compiler.diff_models(dense, int8)
    executions = [(w.after.execution if w.after else None, w.changed_share) for w in result.weights]
    assert executions == [("int8", 0), ("int8", 0)]


def test_exit_codes_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, compiled = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(net(weights()), path)
    dc_compiler.compile_model(path, compiled, pipeline="cluster(bits=3),encode")
    assert cli.main(["diff", str(path), str(path)]) == 0
    assert "2 same" in capsys.readouterr().out
    assert cli.main(["diff", str(path), str(compiled), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["schema"], found["same"], len(found["weights"])) == ("dcc.diff/1", False, 2)
    assert cli.main(["diff", str(path), str(tmp_path / "none.onnx")]) == 2


def test_table_fits_a_narrow_terminal(tmp_path: Path) -> None:
    from rich.console import Console

    one = {"encoder.layers.11.attention.self.query.projection.weight": RNG.standard_normal((64, 64)).astype("f4")}
    other = {n: np.round(w, 1) for n, w in one.items()}
    result = diff.diff_models(net(one), net(other))
    table = console.diff_summary(result)[0]
    for width, titles in ((80, ["weight", "change", "bytes", "moved %"]), (200, ["coder", "bits", "kept %"])):
        out = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
        out.print(table)
        lines = out.export_text().splitlines()
        assert len(lines) == 2
        assert all(len(line) <= width for line in lines)
        assert all(title in lines[0] for title in titles)
    assert "encoder.l" in lines[1]
